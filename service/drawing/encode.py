"""Pictures to files: PNG, WebP and JPEG, and their size limits."""

import io
import struct
import zlib

import numpy as np
from isal import isal_zlib
from PIL import Image

from service.drawing.maps import STRIP_PIXELS, UNSEEN, Floats, Placement, strip_indices
from service.drawing.png import write_png
from service.errors import InvalidOption, TooManyPixels

MAX_SIDE = {"image/webp": 16383, "image/jpeg": 65535, "image/png": 65535}
MAX_DRAWN_PIXELS = 25_000_000
"""Larger originals are classified, but their picture needs a `size`."""
_WEBP_QUALITY = 60
"""Of the encoder's time at 75, 60 takes 0.92 (0.89 of grainy pictures) with 0.84 of the bytes, and is on average 3.2
from the PNG instead of 2.8, of 255; 240 overlays. The rest hardly depends on what is in the picture: a flat one takes
0.6 of the time. Method 0 takes 0.85 of the time of 1, with a tenth more bytes and equal quality. Settings of libwebp
that Pillow does not have (one segment, no filter, no copy of the pixels) save a tenth at most."""
_PNG_UP = 2
"""PNG's filter type for differences to the row above."""


def rgba_png(grid: Floats, placement: Placement, palette: bytes) -> bytes:
    """Return an RGBA PNG of a map, written strip by strip: the whole layer would take four bytes a pixel.

    Rows are stored as differences to the row above, which are nearly all zero in an enlarged map.
    """
    colours = np.full((256, 4), 255, np.uint8)
    colours[:, :3] = np.frombuffer(palette, np.uint8).reshape(256, 3)
    colours[UNSEEN] = 0
    table = colours.view(np.uint32)[:, 0]
    width, height = placement.width, placement.height
    left, top, right, bottom = placement.inside
    above = np.zeros(4 * width, np.uint8)
    packer, packed = isal_zlib.compressobj(1), []
    rows = max(1, STRIP_PIXELS // 4 // width)
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        indices = np.full((stop - start, width), UNSEEN, np.uint8)
        first, last = max(start, top), min(stop, bottom)
        if first < last:
            seen = strip_indices(grid, placement, (left, first, right, last))
            indices[first - start : last - start, left:right] = np.asarray(seen)
        pixels = table[indices].view(np.uint8).reshape(stop - start, 4 * width)
        filtered = np.full((stop - start, 1 + 4 * width), _PNG_UP, np.uint8)
        filtered[0, 1:] = pixels[0] - above
        filtered[1:, 1:] = pixels[1:] - pixels[:-1]
        above = pixels[-1]
        packed.append(packer.compress(filtered.data))
    head = struct.pack(">LLBBBBB", width, height, 8, 6, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", b"".join([*packed, packer.flush()])), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body)) for kind, body in chunks
    )


def check_size(placement: Placement, media_type: str) -> None:
    """Refuse a picture that is too large.

    Raises:
        InvalidOption: longer than the format can hold.
        TooManyPixels: more than `MAX_DRAWN_PIXELS`.
    """
    if placement.width * placement.height > MAX_DRAWN_PIXELS:
        pixels = f"{placement.width}×{placement.height} pixels"
        raise TooManyPixels(
            f"A picture of {pixels} is larger than the limit of {MAX_DRAWN_PIXELS:,} pixels; set a smaller `size`."
        )
    longest = MAX_SIDE.get(media_type, 0)
    if max(placement.width, placement.height) > longest:
        raise InvalidOption(f"{media_type} holds at most {longest} pixels a side; set a smaller `size`.")


def encode(image: Image.Image, media_type: str) -> bytes:
    """Return the picture's file.

    Args:
        image: RGB or palette.
        media_type: `image/png`, `image/webp` or `image/jpeg`.
    """
    if media_type == "image/png":
        return write_png(image)
    stream = io.BytesIO()
    if media_type == "image/webp":
        (image.convert("RGBA") if image.mode == "P" else image).save(stream, "WEBP", quality=_WEBP_QUALITY, method=0)
    elif media_type == "image/jpeg":
        image.convert("RGB").save(stream, "JPEG", quality=88)
    else:
        raise InvalidOption(f"There are no pictures of type {media_type}; there are {', '.join(MAX_SIDE)}.")
    return stream.getvalue()
