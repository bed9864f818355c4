"""Which way up a photo is: its EXIF orientation, and where mirroring moves the partial pixels of a reduced image.

Decided as browsers do: EXIF counts, XMP's `tiff:Orientation` alone does not. Chromium 156 shows a JPEG, PNG, WebP or
AVIF that is turned by XMP alone as it is stored, and follows EXIF where the two differ; Pillow's `exif_transpose`
would turn it. Two kinds are turned here that Chromium shows as they are stored, because upright is how they were meant:
a WebP by its EXIF, and a PNG by EXIF behind its pixels, which a browser that draws while loading cannot follow
(w3c/csswg-drafts#4929). Tested in `tests/contract/test_browser.py`.

Source: https://drafts.csswg.org/css-images-3/#the-image-orientation.
"""

import struct

from PIL import Image

from model.photo.errors import PhotoError
from model.photo.headers import directory

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_orientation(exif: object) -> int:
    """Return the orientation of an EXIF block, 1 to 8; 1 where it has none or is broken.

    Reads this one tag: parsing the whole block builds an object for every tag of an untrusted file.

    Args:
        exif: the block, with or without its `Exif` prefix; anything else counts as absent.
    """
    if not isinstance(exif, bytes):
        return 1
    block = exif.removeprefix(b"Exif\0\0")
    if block[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    try:
        for tag, kind, count, value in directory(block):
            if tag == 0x0112 and kind == 3 and count == 1:
                found = int.from_bytes(value[:2], "little" if block[:1] == b"I" else "big")
                return found if found in UPRIGHT else 1
    except (struct.error, PhotoError):
        return 1
    return 1


def partial_pixels(
    reduced: tuple[int, int], original: tuple[int, int], scale: int, orientation: int
) -> tuple[float, float]:
    """Return where the original's corner is in the reduced image: not at 0 where mirroring moved a partial pixel."""
    mirrored_x, mirrored_y = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    return (
        reduced[0] - original[0] / scale if mirrored_x else 0.0,
        reduced[1] - original[1] / scale if mirrored_y else 0.0,
    )
