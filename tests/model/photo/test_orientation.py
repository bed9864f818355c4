"""Images are turned upright, whatever their format keeps the orientation in."""

import numpy as np
import pytest

from model.photo.decode import decode_image
from model.photo.orientation import read_orientation
from tests.model.photo.files import STORED, chunk, encoded, oriented, quarters


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF", "JPEG", "AVIF"])
def test_images_are_turned_upright(orientation: int, format_: str) -> None:
    """Every EXIF orientation in every format that knows it shows the same picture."""
    upright = quarters()
    options: dict[str, object] = {"exif": oriented(orientation)}
    options |= {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}.get(format_, {})
    decoded = decode_image(encoded(STORED[orientation](upright), format_, **options))
    assert upright.size == (decoded.width, decoded.height) == decoded.image.size
    assert np.abs(np.asarray(decoded.image).astype(int) - np.asarray(upright))[4:12, 4:20].max() <= 8
    assert np.abs(np.asarray(decoded.image).astype(int) - np.asarray(upright))[20:28, 28:44].max() <= 8


@pytest.mark.parametrize(
    "block", [None, "text", b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", oriented(9), oriented(0), b"MM\0*" * 9]
)
def test_broken_exif_counts_as_upright(block: object) -> None:
    """Anything but a readable orientation counts as none."""
    assert read_orientation(block) == 1


def test_orientation_behind_the_pixels_of_a_png() -> None:
    """PNG lets EXIF follow the image data."""
    data = encoded(quarters(), "PNG")
    exif = chunk(b"eXIf", oriented(6).removeprefix(b"Exif\0\0"))
    assert (32, 48) == decode_image(data[:-12] + exif + data[-12:]).image.size
