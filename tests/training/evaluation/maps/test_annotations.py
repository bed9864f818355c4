"""Boxes, masks and parts on the network's input: they must land where the photo's pixels land."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.contract.geometry import Resize
from training.data.samples import Sample
from training.errors import DatasetError
from training.evaluation.maps.annotations import annotation_of, boxes_of

SHORTER = Resize(mode="shorter_side", size=80, crop=64)
STRETCH = Resize(mode="stretch", size=64, crop=64)


@pytest.mark.parametrize("resize", [SHORTER, STRETCH], ids=["shorter side", "stretch"])
@pytest.mark.parametrize("size", [(160, 100), (100, 160), (97, 97)])
def test_mask_and_part_land_on_the_photo(tmp_path: Path, size: tuple[int, int], resize: Resize) -> None:
    """A bright square in the photo, its mask, and its middle as a part: all in the same place of the input."""
    width, height = size
    pixels = np.zeros((height, width), dtype=np.uint8)
    left, top = width // 2 - 20, height // 2 - 10
    pixels[top : top + 24, left : left + 24] = 255
    photo = Image.fromarray(pixels)
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    sample = Sample(Path("photo.jpg"), 0, parts=((3, left + 12, top + 12),), mask=tmp_path / "mask.png")
    found = annotation_of(sample, size, resize)
    side = (resize.crop, resize.crop)
    shown = np.asarray(photo.resize(side, Image.Resampling.BILINEAR, box=resize.source_box(*size)))
    assert found.mask is not None
    assert (found.mask != (shown > 127)).mean() < 0.02
    rows, columns = np.nonzero(shown > 127)
    assert found.parts[0].part == 3
    np.testing.assert_allclose((found.parts[0].x, found.parts[0].y), (columns.mean() + 0.5, rows.mean() + 0.5), atol=1)
    np.testing.assert_allclose(found.box, [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], atol=1)


def test_region_is_the_mask_before_the_box() -> None:
    """A box is a region where there is no mask; a photo without either has none."""
    boxed = annotation_of(Sample(Path("a.jpg"), 0, box=(0.0, 0.0, 50.0, 100.0)), (100, 100), STRETCH)
    region = boxed.region(64)
    assert region is not None
    assert region.mean() == 0.5
    assert annotation_of(Sample(Path("a.jpg"), 0), (100, 100), STRETCH).region(64) is None


def test_what_the_crop_cuts_off_is_not_there() -> None:
    """A box and a part at the edge of a wide photo lie outside the middle that the network sees."""
    sample = Sample(Path("a.jpg"), 0, box=(0.0, 0.0, 20.0, 100.0), parts=((0, 10.0, 50.0), (1, 100.0, 50.0)))
    found = annotation_of(sample, (200, 100), SHORTER)
    assert found.region(64) is None
    assert [1] == [point.part for point in found.parts]


def test_masks_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    """A mask of another size, or one that is no PNG: the message names the file."""
    mask = tmp_path / "mask.png"
    Image.new("L", (50, 40)).save(mask)
    with pytest.raises(DatasetError, match=r"mask.png has 50×40 pixels, its photo 100×80"):
        annotation_of(Sample(Path("a.jpg"), 0, mask=mask), (100, 80), STRETCH)
    mask.write_bytes(b"GIF89a")
    with pytest.raises(DatasetError, match=r"mask.png is damaged or no PNG"):
        annotation_of(Sample(Path("a.jpg"), 0, mask=mask), (100, 80), STRETCH)


def test_empty_mask_gives_no_region(tmp_path: Path) -> None:
    """Nothing to point at: the photo does not count, and its box is unknown."""
    Image.new("L", (64, 64)).save(tmp_path / "mask.png")
    found = annotation_of(Sample(Path("a.jpg"), 0, mask=tmp_path / "mask.png"), (64, 64), STRETCH)
    assert found.region(64) is None
    assert np.isnan(boxes_of((found, found))).all()
