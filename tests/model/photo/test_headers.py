"""A header that asks for too much is refused before anything is decoded."""

import struct

import pytest
from PIL import Image, TiffImagePlugin

from model.photo.decode import decode_image
from model.photo.errors import TooManyPixels, UndecodablePhoto, UnsupportedFormat
from model.photo.limits import ImageLimits
from tests.model.photo.files import (
    encoded,
)


def test_too_many_pixels_by_the_header() -> None:
    """Pixels are counted before any is decoded, and the message says how many."""
    data = encoded(Image.new("1", (300, 200)), "PNG")
    with pytest.raises(TooManyPixels, match="300×200"):
        decode_image(data, ImageLimits(max_pixels=59_999))


def test_run_length_coded_bmp_is_bounded() -> None:
    """Pillow expands these in Python, so their length is limited."""
    head = b"BM" + struct.pack("<LLLLllHHLLllLL", 0, 0, 1078, 40, 4000, 4000, 1, 8, 1, 0, 0, 0, 256, 0)
    with pytest.raises(UndecodablePhoto, match="run-length"):
        decode_image(head + b"\0" * 1024 + b"\1\0" * (5 * 1024 * 1024))


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize(
    "tags", [{254: 1, 330: 500}, {255: 2, 330: 500}, {50706: 16846848}, {254: 0, 50706: 16846848}], ids=str
)
def test_raw_photos_are_not_judged_by_their_thumbnail(order: str, tags: dict[int, int]) -> None:
    """A DNG or NEF begins with a thumbnail and is refused; a reduced picture alone, or pages, are decoded."""
    directory = TiffImagePlugin.ImageFileDirectory_v2(order.encode() + (b"*\0" if order == "II" else b"\0*") + bytes(4))
    for tag, value in tags.items():
        directory.tagtype[tag] = 1 if tag == 50706 else 4
        directory[tag] = b"\1\4\0\0" if tag == 50706 else value
    with pytest.raises(UnsupportedFormat, match="raw file"):
        decode_image(encoded(Image.new("RGB", (8, 6)), "TIFF", tiffinfo=directory))


def test_small_tiffs_are_pictures() -> None:
    """A reduced picture without another, or with pages or layers beside it, is decoded."""
    for tags in ({254: 1}, {254: 0, 330: 500}, {254: 2}):
        assert (8, 6) == decode_image(encoded(Image.new("RGB", (8, 6)), "TIFF", tiffinfo=tags)).image.size


def test_a_thumbnail_before_the_picture() -> None:
    """A reduced picture followed by another is not the file's picture."""
    thumbnail, picture = Image.new("RGB", (8, 6)), Image.new("RGB", (80, 60))
    data = bytearray(encoded(thumbnail, "TIFF", tiffinfo={254: 0}, save_all=True, append_images=[picture]))
    assert (8, 6) == decode_image(bytes(data)).image.size
    entry = data.index(b"\xfe\0\4\0\1\0\0\0")
    data[entry + 8] = 1
    with pytest.raises(UnsupportedFormat, match="thumbnail"):
        decode_image(bytes(data))
