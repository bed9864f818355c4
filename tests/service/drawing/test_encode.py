"""Encoded files, and the limits of their sizes."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.photo.decode import DecodedImage, decode_image
from service.drawing.encode import encode
from service.drawing.maps import Placement, heatmap, scale_map
from service.drawing.views import render_layer, render_view
from service.errors import InvalidOption, TooManyPixels
from tests.service.drawing.conftest import RESIZE, peak, photo, place_map

RANDOM = np.random.default_rng(5)


@pytest.mark.parametrize("size", [(640, 480), (2000, 1500), (3, 700), (1, 1)])
def test_layer_equals_the_heatmap(size: tuple[int, int]) -> None:
    """The layer written in strips has the heatmap's colours, and is transparent outside the network's crop."""
    grid = RANDOM.random((7, 7))
    layer = np.asarray(
        Image.open(
            io.BytesIO(base64.b64decode(render_layer(scale_map(grid, RESIZE.crop), RESIZE, *size).partition(",")[2]))
        )
    )
    placement = Placement.on(RESIZE, *size)
    expected = np.asarray(heatmap(scale_map(grid), placement).convert("RGB"))
    _, seen = place_map(scale_map(grid).grid, placement)
    # Strips begin elsewhere, so the last bit of a value may round to the neighbouring colour.
    assert (expected[seen] == layer[seen][:, :3]).all(axis=1).mean() > 0.999
    assert np.array_equal(np.where(seen, 255, 0), layer[:, :, 3])


def test_huge_pictures_need_a_size() -> None:
    """An original of fifty megapixels is not drawn in full; smaller pictures of it are."""
    with pytest.raises(TooManyPixels, match="`size`"):
        render_layer(scale_map(peak(1, 1), RESIZE.crop), RESIZE, 8000, 6000)
    with pytest.raises(TooManyPixels, match="`size`"):
        render_view(
            DecodedImage(Image.new("RGB", (8, 6)), 8000, 6000, "JPEG", 1000), RESIZE, view="overlay", gradcam=peak(1, 1)
        )
    assert render_layer(scale_map(peak(1, 1), RESIZE.crop), RESIZE, 8000, 6000, size=64)


def test_formats_have_a_longest_side() -> None:
    """WebP holds at most 16,383 pixels a side."""
    with pytest.raises(InvalidOption, match="16383"):
        render_view(photo(17000, 2), RESIZE, view="gradcam", gradcam=peak(1, 1), media_type="image/webp")


@pytest.mark.parametrize("media_type", ["image/webp", "image/jpeg"])
def test_lossy_types_stay_near_the_png(cub_dir: Path, media_type: str) -> None:
    """Of an overlay, WebP and JPEG differ from the PNG by what the document of the API says."""
    decoded = decode_image(next((cub_dir / "images").glob("017.*/*.jpg")).read_bytes())
    pictures = [
        Image.open(io.BytesIO(render_view(decoded, RESIZE, view="overlay", gradcam=peak(3, 3), media_type=type_)))
        for type_ in ("image/png", media_type)
    ]
    exact, lossy = (np.asarray(picture.convert("RGB"), np.int16) for picture in pictures)
    difference = np.abs(lossy - exact)
    assert (True, True) == (difference.mean() < 4.4, difference.max() <= 64)


def test_unknown_type_is_refused() -> None:
    """Only the types of `/explain` are encoded."""
    with pytest.raises(InvalidOption):
        encode(Image.new("RGB", (1, 1)), "image/tiff")
