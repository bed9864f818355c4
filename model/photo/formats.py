"""Which format a file is of, by its first bytes, and how each is opened. What Pillow does on its own is tamed here."""

import io
import warnings
from collections.abc import Callable
from functools import cache

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from model.photo.errors import EmptyPhoto, UnsupportedFormat
from model.photo.limits import MIB, ImageLimits

# A hostile upload must not be able to fill the log, nor the registry where Python remembers past warnings.
warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
# Decoding has its own thread pool; more threads inside would take the cores from the runtime.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# Compressed text beside the pixels; Pillow's 64 MiB is most of what a bomb may take here.
PngImagePlugin.MAX_TEXT_MEMORY = 8 * MIB

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "PDF"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\1\0", "ICO"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML"),
    (b"<!DOC", "HTML"),
    (b"<html", "HTML"),
    (b"PK\x03\x04", "ZIP"),
    (b"qoif", "QOI"),
)
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}


def sniff(data: bytes) -> str | None:
    """Return the format that the first bytes announce, one of `FORMATS`, or None."""
    for magic, format_ in _MAGIC:
        if data.startswith(magic):
            return format_
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        length = min(int.from_bytes(data[:4], "big"), 256)
        brands = {data[8:12]} | {data[i : i + 4] for i in range(16, length - 3, 4)}
        # An AVIF often lists HEIC's container brands as well, never the other way round.
        if brands & _AVIF_BRANDS:
            return "AVIF"
        if brands & _HEIC_BRANDS:
            return "HEIC"
    return None


def allowed_format(data: bytes, limits: ImageLimits) -> str:
    """Return the format that the first bytes announce.

    Raises:
        EmptyPhoto: no bytes.
        UnsupportedFormat: none that is known, allowed and installed.
    """
    if not data:
        raise EmptyPhoto("The image has zero bytes.")
    format_ = sniff(data)
    if format_ is None:
        foreign = next((name for magic, name in _FOREIGN if data.startswith(magic)), None)
        raise UnsupportedFormat(f"This is {foreign}." if foreign else "The first bytes are of no known image format.")
    if format_ not in limits.formats:
        raise UnsupportedFormat(f"{format_} is switched off on this server.")
    if format_ == "HEIC" and _heif_plugin() is None:
        raise UnsupportedFormat(
            "This is HEIC, which this server cannot decode: its optional `heif` extra is not installed. "
            "Send the photo as JPEG."
        )
    return format_


@cache
def _heif_plugin() -> Callable[[io.BytesIO], ImageFile.ImageFile] | None:
    """Return the HEIC opener of the `heif` extra, or None where it is not installed."""
    try:
        import pillow_heif
    except ImportError:
        return None
    pillow_heif.options.DECODE_THREADS = 1
    pillow_heif.options.THUMBNAILS = False
    pillow_heif.options.DEPTH_IMAGES = False
    pillow_heif.options.AUX_IMAGES = False
    opener: Callable[[io.BytesIO], ImageFile.ImageFile] = pillow_heif.HeifImageFile
    return opener


class Jpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG's first picture, opened without building Python objects of its whole EXIF block.

    Pillow reads the print resolution out of it, which nobody needs here and which hostile tags make costly.
    """

    def _read_dpi_from_exif(self) -> None:
        return


def open_file(data: bytes, format_: str) -> ImageFile.ImageFile:
    """Parse the header of a file of one of `FORMATS`.

    `Image.open` would try every plugin of Pillow, and its bomb check is only a warning.
    """
    stream = io.BytesIO(data)
    match format_:
        case "JPEG":
            return Jpeg(stream)
        case "PNG":
            return PngImagePlugin.PngImageFile(stream)
        case "WEBP":
            return WebPImagePlugin.WebPImageFile(stream)
        case "GIF":
            return GifImagePlugin.GifImageFile(stream)
        case "BMP":
            return BmpImagePlugin.BmpImageFile(stream)
        case "TIFF":
            return TiffImagePlugin.TiffImageFile(stream)
        case "AVIF":
            return AvifImagePlugin.AvifImageFile(stream)
    opener = _heif_plugin()
    assert opener is not None, "refused before"  # noqa: S101 - allowed_format has just checked it
    return opener(stream)
