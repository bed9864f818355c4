"""Odd real images: the same picture in another orientation, format or colour space is shown as the same picture."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from model.photo.decode import DecodedImage, decode_image


@pytest.fixture(scope="module")
def awkward(data_dir: Path) -> Path:
    """Return the folder of odd images."""
    return data_dir / "awkward"


def decode(path: Path) -> DecodedImage:
    """Decode a file."""
    return decode_image(path.read_bytes(), min_side=256)


def difference(one: Path, other: Path) -> float:
    """Return the mean absolute difference of two pictures in levels of 255, at a quarter of a megapixel at most."""
    images = [decode(path).image for path in (one, other)]
    for image in images:
        image.thumbnail((400, 400))
    assert images[0].size == images[1].size
    return float(np.asarray(ImageChops.difference(*images)).mean())


@pytest.mark.parametrize(
    ("one", "other", "most"),
    [
        ("exif_Landscape_3.jpg", "exif_Landscape_6.jpg", 3),
        ("exif_Landscape_3.jpg", "exif_Landscape_8.jpg", 3),
        ("exif_Portrait_1.jpg", "exif_Portrait_5.jpg", 3),
        ("exif_Portrait_1.jpg", "exif_Portrait_6.jpg", 3),
        ("exif_Portrait_1.jpg", "exif_Portrait_8.jpg", 3),
        ("hopper.jpg", "hopper_orientation_2.jpg", 5),
        ("hopper.jpg", "hopper_orientation_3.jpg", 5),
        ("hopper.jpg", "hopper_orientation_5.jpg", 5),
        ("hopper.jpg", "hopper_orientation_6.webp", 5),
        ("hopper.jpg", "hopper_lzma.tif", 5),
        ("hopper.jpg", "hopper.Lab.tif", 8),
        ("hopper.jpg", "avif__hopper.avif", 10),
        ("flower2.jpg", "jpeg_ff00_header.jpg", 0),
        ("pil_sample_rgb.jpg", "truncated_app14.jpg", 0),
        ("pil_sample_rgb.jpg", "pil_sample_cmyk.jpg", 12),
        ("transparent.gif", "transparent.png", 8),
        ("iss634.gif", "iss634.webp", 8),
        ("pil123p.png", "pil123rgba.png", 8),
    ],
)
def test_twins_look_the_same(awkward: Path, one: str, other: str, most: float) -> None:
    """The same picture in another orientation, format or colour space is shown as the same picture."""
    assert difference(awkward / one, awkward / other) <= most


def test_grey_twin(awkward: Path) -> None:
    """The grey portrait is the colour one without its colours."""
    grey = decode(awkward / "hopper_gray.jpg").image.convert("L")
    colour = decode(awkward / "hopper.jpg").image.convert("L")
    assert np.asarray(ImageChops.difference(grey, colour)).mean() < 6


def test_sixteen_bits_are_not_white(awkward: Path) -> None:
    """A dark 16-bit image stays dark, where cutting at 255 would turn it white."""
    values = np.asarray(Image.open(io.BytesIO((awkward / "16bit.cropped.tif").read_bytes())))
    shown = np.asarray(decode(awkward / "16bit.cropped.tif").image)[:, :, 0]
    assert np.rint(values / 257).astype(int).tolist() == shown.tolist()
    assert shown.max() < 5


def test_transparent_parts_are_white(awkward: Path) -> None:
    """The corners of the dice and the frame of the star are paper."""
    for name in ("transparent.png", "transparent.gif", "avif__star.avifs", "pil123rgba.png"):
        assert (255, 255, 255) == decode(awkward / name).image.getpixel((1, 1)), name
