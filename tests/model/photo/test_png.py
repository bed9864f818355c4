"""What of a PNG is drawn: no text stops a photo, however long, and an animation begins with its first frame."""

import os
import struct
import zlib

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from model.photo.decode import decode_image
from model.photo.errors import UndecodablePhoto
from tests.model.photo.files import animated, chunk, encoded, frame_control, oriented, pixels, png, quarters, slopes
from tests.model.photo.profiles import DISPLAY_P3, converted

PHOTO = slopes(40, 30)
PLAIN = encoded(PHOTO, "PNG")
AT_PIXELS = PLAIN.index(b"IDAT") - 4
LONG = b"{'workflow': 1}" * 400_000


def with_chunks(*chunks: bytes, at: int = AT_PIXELS) -> bytes:
    """Return the photo with chunks before its pixels, or elsewhere."""
    return PLAIN[:at] + b"".join(chunks) + PLAIN[at:]


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(b"zTXt", b"workflow\0\0" + zlib.compress(LONG))],
        [chunk(b"iTXt", b"workflow\0\1\0en\0\0" + zlib.compress(LONG))],
        [chunk(b"iTXt", b"workflow\0\0\0en\0\0" + LONG)],
        [chunk(b"tEXt", b"workflow\0" + LONG)] * 3,
        [chunk(b"zTXt", b"workflow\0\7" + zlib.compress(LONG))],
        [chunk(b"tEXt", b"exif\0" + oriented(6))],
        [chunk(b"pHYs", b"\0")],
        [chunk(b"cHRM", b"\0")],
        [chunk(b"tIME", b"\7\xe9")[:-1] + b"x"],
        [chunk(b"iCCP", b"k\0\7" + zlib.compress(DISPLAY_P3))],
        [chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(9_000_000)))],
        [chunk(b"fcTL", b"\0")],
        [chunk(b"acTL", b"\0\0\0\1\0\0\0\0"), chunk(b"fdAT", b"\0\0\0\7" + b"x" * 9)],
        [chunk(b"prIv", os.urandom(50))] * 1000,
    ],
    ids=[
        "zTXt",
        "iTXt",
        "plain iTXt",
        "tEXt",
        "method",
        "exif as text",
        "pHYs",
        "cHRM",
        "checksum",
        "profile's method",
        "endless profile",
        "fcTL",
        "fdAT",
        "private",
    ],
)
def test_metadata_stops_no_photo(chunks: list[bytes], behind: bool) -> None:
    """Text of any length and any broken chunk that draws nothing leave the pixels as they are."""
    data = with_chunks(*chunks, at=PLAIN.index(b"IEND") - 4 if behind else AT_PIXELS)
    assert pixels(PLAIN).tolist() == pixels(data).tolist()


def test_long_text_as_pillow_writes_it() -> None:
    """A workflow beside a picture, saved as the programs that draw pictures save it."""
    note = PngInfo()
    note.add_text("prompt", LONG.decode(), zip=True)
    note.add_itxt("workflow", LONG.decode() + "é", zip=True)
    assert pixels(PLAIN).tolist() == pixels(encoded(PHOTO, "PNG", pnginfo=note)).tolist()


def test_a_scanners_profile_is_applied() -> None:
    """A profile of one and a half megabytes is applied, in a PNG as in a JPEG of many segments."""
    long_profile = DISPLAY_P3 + os.urandom(1_500_000)
    long_profile = struct.pack(">L", len(long_profile)) + long_profile[4:]
    photo = converted(PHOTO, DISPLAY_P3, "RGB")
    for format_ in ("PNG", "JPEG"):
        expected = pixels(encoded(photo, format_, icc_profile=DISPLAY_P3))
        assert expected.tolist() == pixels(encoded(photo, format_, icc_profile=long_profile)).tolist()
        assert expected.tolist() != pixels(encoded(photo, format_)).tolist()


def test_orientation_and_transparency_still_count() -> None:
    """What is kept beside the pixels: EXIF before or behind them, and a transparent colour."""
    exif = chunk(b"eXIf", oriented(6).removeprefix(b"Exif\0\0"))
    for data in (with_chunks(exif), with_chunks(exif, at=PLAIN.index(b"IEND") - 4)):
        assert (30, 40) == decode_image(data).image.size
    clear = png(1, 1, 8, 2, b"\0\1\2\3", chunk(b"tRNS", b"\0\1\0\2\0\3"))
    assert [[[255, 255, 255]]] == pixels(clear).tolist()


def test_many_chunks_are_refused() -> None:
    """A file of nothing but tiny chunks costs a bounded time."""
    with pytest.raises(UndecodablePhoto, match="chunks"):
        decode_image(with_chunks(chunk(b"prIv", b"") * 250_000))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_an_animation_begins_with_its_first_frame(mode: str) -> None:
    """The default image of an APNG is for viewers that know no animations."""
    first = quarters().convert(mode)
    data = animated(Image.new(mode, first.size, "gray"), first)
    assert pixels(encoded(first, "PNG")).tolist() == pixels(data).tolist()


def test_a_first_frame_smaller_than_its_canvas() -> None:
    """The rest of the canvas is transparent: paper."""
    decoded = decode_image(animated(Image.new("RGB", (60, 50)), Image.new("RGB", (20, 10), "red"), (30, 20)))
    assert (60, 50) == decoded.image.size == (decoded.width, decoded.height)
    assert [(255, 255, 255), (255, 0, 0)] == [decoded.image.getpixel(at) for at in ((29, 20), (30, 20))]
    assert [(255, 0, 0), (255, 255, 255)] == [decoded.image.getpixel(at) for at in ((49, 29), (50, 29))]


def test_a_default_image_that_is_the_first_frame() -> None:
    """Most APNGs show their default image first, and a frame that does not fit is none."""
    other = Image.new("RGB", PHOTO.size)
    data = animated(PHOTO, other)
    before = data.index(b"IDAT") - 4
    first = data[:before] + frame_control(0, *PHOTO.size) + data[before:]
    misplaced = animated(PHOTO, other, (1, 0))
    for shown in (first, misplaced):
        assert pixels(PLAIN).tolist() == pixels(shown).tolist()
