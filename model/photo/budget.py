"""Memory: how much decoding a file takes, how threads share it, and how it is returned to the system."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from PIL import ImageFile

from model.photo.errors import TooManyPixels
from model.photo.formats import Jpeg
from model.photo.headers import is_buffered
from model.photo.limits import MIB, ImageLimits, shown_size
from model.photo.orientation import read_orientation

BYTES_PER_BYTE = 256
"""Beyond what any file may take, decoding may take this much memory per byte of the file: photos need 2 to 200,
bombs 1,000."""
HEAP_BYTES = 4 * MIB
"""Larger blocks of memory are returned to the system when freed, and so is more free memory at a heap's end."""


def return_large_blocks() -> None:
    """Make glibc return freed image buffers to the system, but not those that the next image needs again.

    It raises its own threshold with every large block that is freed, up to 32 MB, and then keeps such blocks in each
    thread's heap: after a few large photos the process would be larger by all of them. A fixed threshold stops the
    raising; it also fixes how much free memory ends a heap before it is given back, at 128 kB, less than one photo.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, HEAP_BYTES)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, HEAP_BYTES)  # M_TRIM_THRESHOLD


def return_freed_blocks() -> None:
    """Make glibc return what is free between blocks in use, as the weights of a model that was replaced are.

    Blocks; takes some milliseconds.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


_NATIVE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
# What a decoder holds beside Pillow's own image, bytes a pixel; measured on flat images of 12 million pixels.
_DECODER_BYTES = {"WEBP": 12, "AVIF": 8, "HEIC": 6, "TIFF": 4}


def decode_bytes(data: bytes, format_: str, image: ImageFile.ImageFile, stored: tuple[int, int]) -> int:
    """Return about how much memory decoding and turning to RGB will take, bytes."""
    pixels = image.size[0] * image.size[1]
    each = _NATIVE_BYTES.get(image.mode, 4) + _DECODER_BYTES.get(format_, 0)
    if image.mode != "RGB" or "transparency" in image.info:
        each += 4
    if format_ not in ("TIFF", "HEIC") and (
        read_orientation(image.info.get("exif")) != 1 or (format_ == "PNG" and b"eXIf" in data)
    ):
        each += 4
    if image.size == stored:  # the service may draw on a copy and encode it
        each = max(each, 10)
    coefficients = 0
    if isinstance(image, Jpeg) and is_buffered(data, image):
        widest = max(h * v for _, h, v, _ in image.layer)
        coefficients = sum(2 * stored[0] * stored[1] * h * v // max(widest, 1) for _, h, v, _ in image.layer)
    return pixels * each + coefficients


class Budget:
    """Memory that all decoding threads share: large images wait for each other, small ones are decoded in parallel."""

    def __init__(self) -> None:
        self._turnstile = threading.Lock()
        self._changed = threading.Condition()
        self._used = 0

    @contextmanager
    def reserved(self, wanted: int, file_bytes: int, limits: ImageLimits) -> Iterator[None]:
        """Hold `wanted` bytes, waiting for them in the order of arrival.

        Raises:
            TooManyPixels: more than any file may take, or than a file of `file_bytes` may.
        """
        if wanted > limits.max_decode_bytes or (wanted > limits.shared_bytes and wanted > BYTES_PER_BYTE * file_bytes):
            raise TooManyPixels(
                f"Decoding {shown_size(file_bytes)} would take {wanted // MIB:,} MiB of memory; "
                f"{limits.shared_bytes // MIB} MiB are given to any file, more only to large ones."
            )
        share = min(wanted, limits.shared_bytes)
        with self._turnstile, self._changed:
            self._changed.wait_for(lambda: self._used + share <= limits.shared_bytes)
            self._used += share
        try:
            yield
        finally:
            with self._changed:
                self._used -= share
                self._changed.notify_all()


BUDGET = Budget()
