"""Limits of decoding: formats, pixels and memory."""

from dataclasses import dataclass

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIC")
MIB = 1024 * 1024


def shown_size(num_bytes: int) -> str:
    """Return a number of bytes as people read it."""
    if num_bytes < 1024:
        return f"{num_bytes} bytes"
    return f"{num_bytes / MIB:.4g} MiB" if num_bytes >= MIB else f"{num_bytes / 1024:.3g} KiB"


@dataclass(frozen=True)
class ImageLimits:
    """Limits of decoding; the defaults are for untrusted files.

    Attributes:
        max_pixels: of one image, by its header.
        formats: allowed ones, out of `FORMATS`.
        max_decode_bytes: memory that decoding one image may take, whatever its size.
        shared_bytes: memory that decoding any file may take, however small the file, and that all threads of the
            process share; a file that needs more gets it alone, and in proportion to its size.
    """

    max_pixels: int = 50_000_000
    formats: frozenset[str] = frozenset(FORMATS)
    max_decode_bytes: int = 384 * MIB
    shared_bytes: int = 80 * MIB
