"""What a header claims, before Pillow acts on it: pixels, tags and scans that ask for too much are refused."""

import re
import struct
from collections.abc import Iterator

from PIL import ImageFile

from model.photo.errors import TooManyPixels, UndecodablePhoto, UnsupportedFormat
from model.photo.limits import MIB, ImageLimits

MAX_SCAN_PIXELS = 1_000_000_000
"""Scans × pixels of one JPEG: each scan of a progressive file passes over the whole image again."""
MAX_RUN_LENGTH_BYTES = 4 * MIB
"""Pillow expands run-length coded BMPs in Python, holding the interpreter lock."""
MAX_TAG_VALUES = 200_000
"""Values of one TIFF tag, e.g. strips; Pillow makes a Python object of each."""


def check_header(data: bytes, format_: str, limits: ImageLimits) -> None:
    """Check what Pillow would act on while opening, before it does."""
    if format_ == "GIF":
        check_pixels(_gif_size(data), limits)
    elif format_ == "WEBP":
        check_pixels(_webp_size(data), limits)
    elif format_ == "TIFF":
        _check_directory(data, limits)
        _check_first_picture(data)


def check_pixels(size: tuple[int, int], limits: ImageLimits) -> None:
    """Refuse an image without pixels, or with more than are decoded."""
    width, height = size
    if width < 1 or height < 1:
        raise UndecodablePhoto(f"The image has no pixels: {width}×{height}.")
    if width * height > limits.max_pixels:
        raise TooManyPixels(f"The image has {width}×{height} pixels; at most {limits.max_pixels:,} are decoded.")


def _gif_size(data: bytes) -> tuple[int, int]:
    """Return the size of screen and first frame together; Pillow makes a buffer of it while opening."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << ((flags & 7) + 1) if flags & 128 else 0)
    while data[at : at + 1] == b"!":
        at += 2
        while data[at]:
            at += data[at] + 1
        at += 1
    if data[at : at + 1] == b",":
        left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, at + 1)
        width, height = max(width, left + frame_width), max(height, top + frame_height)
    return width, height


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return the canvas size; libwebp makes two canvases while opening."""
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


_NEW_SUBFILE, _OLD_SUBFILE, _SUB_DIRECTORIES, _DNG_VERSION = 254, 255, 330, 50706
_RAW = "This is a camera's raw file (DNG, NEF, …), or its first picture is a thumbnail. Send the photo as JPEG."
_TIFF_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def directory(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (tag, type, count, the 4 or 8 bytes of value or offset) of a TIFF's first directory."""
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (start,) = struct.unpack_from(order + ("Q" if big else "L"), data, 8 if big else 4)
    (number,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    step, first = (20, start + 8) if big else (12, start + 2)
    if number > 65535:
        raise UndecodablePhoto("The TIFF directory has too many tags.")
    for i in range(number):
        yield struct.unpack_from(order + ("HHQ8s" if big else "HHL4s"), data, first + i * step)


def _check_directory(data: bytes, limits: ImageLimits) -> None:
    """Refuse a TIFF directory whose tags claim more than the file holds, or buffers beyond the image.

    Tags may point at the same bytes: 65,535 tags of one 20 MB file are a terabyte.
    """
    order = "little" if data[:1] == b"I" else "big"
    total, tile = 0, {322: 1, 323: 1}
    try:
        for tag, kind, count, value in directory(data):
            size = _TIFF_UNITS.get(kind, 0) * count
            total += size if size > len(value) else 0
            if total > len(data) or (_TIFF_UNITS.get(kind, 1) > 1 and count > MAX_TAG_VALUES):
                raise UndecodablePhoto("The TIFF directory claims more than the file holds.")
            if tag in tile and kind in (3, 4) and count == 1:
                # "HL" values are left-justified in either byte order.
                tile[tag] = int.from_bytes(value[: _TIFF_UNITS[kind]], order)  # type: ignore[arg-type]
    except struct.error as error:
        raise UndecodablePhoto("The TIFF directory is broken or truncated.") from error
    if tile[322] * tile[323] > limits.max_pixels:
        raise TooManyPixels(f"The TIFF image has tiles of {tile[322]}×{tile[323]} pixels.")


def _check_first_picture(data: bytes) -> None:
    """Refuse a file whose first directory is not the picture: raw photos (DNG, NEF, CR2, ARW) begin with a thumbnail.

    A camera's raw values need developing, which is not done here; the thumbnail would be taken for the photo.
    """
    tags = {tag: _number(data, kind, value) if count == 1 else 0 for tag, kind, count, value in directory(data)}
    if _DNG_VERSION in tags or data[4:11] == b"\x10\0\0\0CR\2":
        raise UnsupportedFormat(_RAW)
    is_reduced = tags.get(_NEW_SUBFILE, 0) & 1 or tags.get(_OLD_SUBFILE) == 2
    if is_reduced and (_SUB_DIRECTORIES in tags or _has_second(data)):
        raise UnsupportedFormat(_RAW)


def _has_second(data: bytes) -> bool:
    """Return whether another directory follows a TIFF's first."""
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (start,) = struct.unpack_from(order + ("Q" if big else "L"), data, 8 if big else 4)
    (number,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    end = start + (8 + 20 * number if big else 2 + 12 * number)
    return any(data[end : end + (8 if big else 4)])


def _number(data: bytes, kind: int, value: bytes) -> int:
    return int.from_bytes(value[: _TIFF_UNITS.get(kind, 0)], "little" if data[:1] == b"I" else "big")


# Segments in which Pillow reads beyond the end of the segment, and the least length that libjpeg accepts.
_FRAIL = {b"JFIF": 14, b"Adobe": 12, b"ICC_PROFILE\0": 14, b"Photoshop 3.0\0": 1 << 16}


def without_frail_segments(data: bytes) -> bytes:
    """Return a JPEG, as long as before, whose cut segments of metadata have lost their names."""
    found, at = bytearray(data), 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        for name, least in _FRAIL.items():
            if 0xE0 <= data[at + 1] <= 0xEF and data.startswith(name, at + 4) and length - 2 < least:
                found[at + 4 : at + 4 + len(name)] = bytes(len(name))
        at += 2 + max(length, 2)
    return bytes(found)


_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def check_scans(data: bytes, image: ImageFile.ImageFile, limits: ImageLimits) -> None:
    """Bound the work of a JPEG with many scans."""
    if not is_buffered(data, image):
        return
    scans, at = 0, max(data.rfind(b"\xff\xda", 0, _header_end(image)), 0)
    # Twenty passes over the largest image that is allowed: allowing larger ones means progressive ones too.
    allowed = max(MAX_SCAN_PIXELS, 20 * limits.max_pixels) // (image.size[0] * image.size[1])
    while (marker := _MARKER.search(data, at)) is not None:
        kind, at = data[marker.start() + 1], marker.end()
        if kind == 0xD9:
            return
        scans += kind == 0xDA
        if scans > allowed:
            raise UndecodablePhoto("The JPEG image has too many scans.")
        at += int.from_bytes(data[at : at + 2], "big")


def _header_end(image: ImageFile.ImageFile) -> int:
    """Return where Pillow stopped reading: behind the header of the first scan."""
    return image.fp.tell() if image.fp is not None else 0


def is_buffered(data: bytes, image: ImageFile.ImageFile) -> bool:
    """Return whether libjpeg holds all coefficients at once: progressive, or the colours in scans of their own."""
    if "progressive" in image.info:
        return True
    scan = data.rfind(b"\xff\xda", 0, _header_end(image))
    return scan >= 0 and data[scan + 4 : scan + 5] != bytes([len(image.getbands())])
