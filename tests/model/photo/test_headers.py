"""A header that asks for too much is refused before anything is decoded."""

import struct

import pytest
from PIL import Image

from model.photo.decode import decode_image
from model.photo.errors import TooManyPixels, UndecodablePhoto
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
