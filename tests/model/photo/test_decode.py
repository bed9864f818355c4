"""The decoder's own promises: reduced images keep their geometry, broken files are refused in our words."""

import numpy as np
import pytest
from PIL import Image

from model.contract.geometry import Resize
from model.photo.decode import DecodedImage, decode_image, prepare
from model.photo.errors import EmptyPhoto, PhotoError, UndecodablePhoto
from tests.model.photo.files import STORED, encoded, oriented, pixels, slopes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_draft_keeps_the_geometry(orientation: int) -> None:
    """A JPEG decoded at a fraction of its odd size gives the input of the full one, however it is turned."""
    resize = Resize(size=64, crop=56)
    image = slopes(1021, 779)
    data = encoded(STORED[orientation](image), "JPEG", quality=98, subsampling=0, exif=oriented(orientation))
    full, part = decode_image(data), decode_image(data, min_side=resize.size)
    assert (1, 4) == (full.scale, part.scale)
    assert (1021, 779) == (part.width, part.height)
    difference = prepare(full, resize).astype(int) - prepare(part, resize)
    assert abs(difference.mean()) < 0.2
    assert np.abs(difference).max() <= 3


def test_draft_leaves_twice_the_side() -> None:
    """The shorter side keeps at least twice the requested pixels."""
    data = encoded(slopes(1600, 900), "JPEG")
    assert [1, 1, 2, 8] == [decode_image(data, min_side=side).scale for side in (900, 451, 225, 50)]


def test_prepare_of_a_narrow_strip() -> None:
    """A strip of extreme proportions needs no scaled copy of itself."""
    for size in ((1, 20000), (20000, 1), (1, 1), (2, 3)):
        square = prepare(DecodedImage(Image.new("RGB", size, "red"), *size, "PNG"), Resize(size=256, crop=224))
        assert (224, 224, 3) == square.shape
        assert [[255, 0, 0]] == np.unique(square.reshape(-1, 3), axis=0).tolist()


def test_nothing_is_empty_input() -> None:
    """Zero bytes are no image."""
    with pytest.raises(EmptyPhoto):
        decode_image(b"")


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_truncated_files_are_refused(format_: str, share: float) -> None:
    """Half an image is never classified."""
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, format_)
    with pytest.raises(UndecodablePhoto):
        decode_image(data[: int(len(data) * share)])


def test_error_text_holds_nothing_of_the_library() -> None:
    """The client gets our message, not Pillow's."""
    with pytest.raises(UndecodablePhoto) as caught:
        decode_image(b"\x89PNG\r\n\x1a\n" + b"\xff" * 60)
    assert caught.value.detail == "The PNG image is broken, truncated or of an unknown kind."


def test_decoding_is_repeatable() -> None:
    """The same bytes give the same pixels, after an error too."""
    data = encoded(slopes(100, 80), "WEBP")
    first = pixels(data)
    with pytest.raises(PhotoError):
        decode_image(data[:50])
    assert np.array_equal(first, pixels(data))
