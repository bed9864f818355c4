"""Image files made by hand, for the tests of the decoder."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.photo.decode import decode_image

ORIENTATION = 0x0112


def encoded(image: Image.Image, format_: str, **options: object) -> bytes:
    """Return the image's file."""
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def pixels(data: bytes) -> npt.NDArray[np.uint8]:
    """Return the decoded pixels, (height, width, 3)."""
    return np.asarray(decode_image(data).image)


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return one PNG chunk."""
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """Return a PNG written by hand: rows include their filter bytes."""
    head = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, 0))
    tail = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + tail


def tiff(tags: list[tuple[int, int, int, bytes]], tail: bytes = b"") -> bytes:
    """Return a little-endian TIFF of one directory: (tag, kind, count, 4 bytes)."""
    body = b"".join(struct.pack("<HHL4s", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<L", 8) + struct.pack("<H", len(tags)) + body + b"\0\0\0\0" + tail


def long(value: int) -> bytes:
    """Return a TIFF value of four bytes."""
    return struct.pack("<L", value)


def oriented(orientation: int) -> bytes:
    """Return an EXIF block with this orientation."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes()


def quarters(width: int = 48, height: int = 32) -> Image.Image:
    """Return an image with a colour in each quarter."""
    image = Image.new("RGB", (width, height))
    colours = ((0, 0, "red"), (width // 2, 0, "lime"), (0, height // 2, "blue"), (width // 2, height // 2, "white"))
    for left, top, colour in colours:
        image.paste(colour, (left, top, left + width // 2, top + height // 2))
    return image


STORED: dict[int, Callable[[Image.Image], Image.Image]] = {
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}


def slopes(width: int, height: int) -> Image.Image:
    """Return an image whose red grows to the right and whose green grows downwards, fast enough to see a shift."""
    x = np.broadcast_to(128 + 100 * np.sin(np.arange(width) / width * 12), (height, width))
    y = np.broadcast_to((128 + 100 * np.sin(np.arange(height) / height * 12))[:, None], (height, width))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 90)], axis=2).astype(np.uint8))


def flat(mode: str, format_: str, side: int, **options: object) -> bytes:
    """Return the file of a black square."""
    return encoded(Image.new(mode, (side, side)), format_, **options)


def frame_control(number: int, width: int, height: int, left: int = 0, top: int = 0) -> bytes:
    """Return the chunk that begins a frame."""
    return chunk(b"fcTL", struct.pack(">LLLLLHHBB", number, width, height, left, top, 1, 1, 0, 0))


def pixel_data(image: Image.Image) -> bytes:
    """Return the compressed rows of an image."""
    data, parts, at = encoded(image, "PNG"), [], 8
    while data[at + 4 : at + 8] != b"IEND":
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        parts += [data[at + 8 : end - 4]] if data[at + 4 : at + 8] == b"IDAT" else []
        at = end
    return b"".join(parts)


def animated(default: Image.Image, frame: Image.Image, corner: tuple[int, int] = (0, 0), cut: int = 10) -> bytes:
    """Return an APNG of one frame, in two pieces, that is not the default image."""
    data, rows = encoded(default, "PNG"), pixel_data(frame)
    pieces = [struct.pack(">L", 1) + rows[:cut], struct.pack(">L", 2) + rows[cut:]]
    parts = [frame_control(0, *frame.size, *corner), *(chunk(b"fdAT", piece) for piece in pieces)]
    at, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    return data[:at] + chunk(b"acTL", b"\0\0\0\1\0\0\0\0") + data[at:end] + b"".join(parts) + data[end:]
