"""Which format a file is of, by its first bytes, and how each is opened, without what Pillow would do by itself.

Metadata never makes a photo fail: what Pillow cannot parse in it is hidden from Pillow.
"""

import io
import re
import struct
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
from model.photo.headers import without_frail_segments
from model.photo.limits import ImageLimits
from model.photo.png import read_drawing

# A hostile upload must not fill the log, nor Python's registry of past warnings.
warnings.filterwarnings("ignore", module=r"PIL(\.|$)")

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
    """Return the format of the first bytes, one of `FORMATS`, or None."""
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
    """Return the format of the first bytes, if it is decoded here.

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

    Pillow reads the print resolution from it, which is not needed here and which hostile tags make expensive.
    """

    def _read_dpi_from_exif(self) -> None:
        return


_EXIF_ITEM = re.compile(rb"(infe[\x02\x03].{7,9})Exif", re.DOTALL)
"""Where an AVIF lists its EXIF block among its items."""


class Avif(AvifImagePlugin.AvifImageFile):
    """An AVIF, opened without its EXIF block: properties of the container say which way up it is (`irot`, `imir`)."""

    def _open(self) -> None:
        assert self.fp is not None, "opened on a stream"  # noqa: S101
        data = self.fp.read()
        # Decoding has its own thread pool; more threads in the library would take cores from the runtime.
        make = AvifImagePlugin._avif.AvifDecoder  # type: ignore[attr-defined]
        try:
            self._decoder = make(data, "auto", 1)
        except ValueError:  # libavif refuses a broken EXIF block like this, too
            self._decoder = make(_EXIF_ITEM.sub(rb"\1skip", data), "auto", 1)
        self._size, self.n_frames, self._mode, profile, _, orientation, _ = self._decoder.get_info()
        self.is_animated = self.n_frames > 1
        if profile:
            self.info["icc_profile"] = profile
        if orientation != 1:
            # An EXIF block of this one tag.
            self.info["exif"] = b"II*\0" + struct.pack("<LHHHLHHL", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
        self.seek(0)


def _open_jpeg(data: bytes) -> Jpeg:
    """Parse a JPEG's header; where that fails, once more without the metadata that may be why."""
    try:
        return Jpeg(io.BytesIO(data))
    except Exception:
        # Pillow reads Photoshop's, Adobe's and JFIF's segments too, and raises many kinds where they are cut.
        return Jpeg(io.BytesIO(without_frail_segments(data)))


def _open_png(data: bytes) -> PngImagePlugin.PngImageFile:
    drawing = read_drawing(data)
    image = PngImagePlugin.PngImageFile(io.BytesIO(drawing.data))
    image.info["icc_profile"] = drawing.profile
    image.info["frame"] = drawing.frame
    return image


_OPENERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": Avif,
}


def open_file(data: bytes, format_: str) -> ImageFile.ImageFile:
    """Parse the header of a file of one of `FORMATS`.

    `Image.open` would try every plugin of Pillow, and its bomb check is only a warning.
    """
    if format_ == "JPEG":
        return _open_jpeg(data)
    if format_ == "PNG":
        return _open_png(data)
    opener = _OPENERS.get(format_) or _heif_plugin()
    assert opener is not None, "refused before"  # noqa: S101 - allowed_format has just checked it
    return opener(io.BytesIO(data))
