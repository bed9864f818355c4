"""Bytes from anywhere → an upright RGB image as a viewer shows it, within a bound of memory; image → network input.

The way of a file: first bytes → format (allow-list) → its header's pixels and the memory that decoding will take →
decode, never truncated → orientation, depth, alpha and colour profile → RGB. Only errors of `service.errors`
come out. Idea of the order: Pillow's own pixel limit merely warns, and a 100 kB file can ask for gigabytes.
"""

import ctypes
import io
import re
import struct
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from model.contract.geometry import Resize
from service.errors import EmptyInput, FieldmarkError, TooManyPixels, UndecodableImage, UnsupportedImageType
from service.settings import Settings

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIC")
MIB = 1024 * 1024
BOMB_BYTES = 80 * MIB
"""Memory that decoding any file may take, however small the file."""
BYTES_PER_BYTE = 256
"""Beyond `BOMB_BYTES`, decoding may take this much memory per byte of the file: photos need 2 to 200, bombs 1,000."""
PROFILE_BYTES = MIB
"""Colour profiles larger than this are ignored; those of printing houses have about half a megabyte."""
MAX_SCAN_PIXELS = 1_000_000_000
"""Scans × pixels of one JPEG: each scan of a progressive file passes over the whole image again."""
MAX_RUN_LENGTH_BYTES = 4 * MIB
"""Pillow expands run-length coded BMPs in Python, holding the interpreter lock."""
MAX_TAG_VALUES = 200_000
"""Values of one TIFF tag, e.g. strips; Pillow makes a Python object of each."""
STRIP_PIXELS = 250_000
"""Conversions of large images go through strips of this many pixels, so that no second image stands beside."""
HEAP_BYTES = 4 * MIB
"""Larger blocks of memory go back to the system when they are freed, and so does more free memory at a heap's end."""

# A hostile upload must not be able to fill the log, nor the registry where Python remembers past warnings.
warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
# Decoding has its own thread pool; more threads inside would take the cores from the runtime.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def _return_large_blocks() -> None:
    """Make glibc give freed image buffers back to the system, but not those that the next image needs again.

    It raises its own threshold with every large block that is freed, up to 32 MB, and then keeps such blocks in each
    thread's heap: after a few large photos the process would be larger by all of them. A fixed threshold stops the
    raising; it also fixes how much free memory ends a heap before it is given back, at 128 kB, less than one photo.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, HEAP_BYTES)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, HEAP_BYTES)  # M_TRIM_THRESHOLD


_return_large_blocks()
# Compressed text beside the pixels; Pillow's 64 MiB is most of what a bomb may take here.
PngImagePlugin.MAX_TEXT_MEMORY = 8 * MIB


@dataclass(frozen=True)
class ImageLimits:
    """What is decoded at all.

    Attributes:
        max_pixels: of one image, by its header.
        formats: allowed ones, out of `FORMATS`.
        max_decode_bytes: memory that decoding one image may take, whatever its size.
    """

    max_pixels: int = 50_000_000
    formats: frozenset[str] = frozenset(FORMATS)
    max_decode_bytes: int = 384 * MIB

    @classmethod
    def from_settings(cls, settings: Settings) -> "ImageLimits":
        """Read the limits out of the settings."""
        return cls(settings.max_pixels, frozenset(settings.formats.split(",")), settings.max_decode_bytes)


@dataclass(frozen=True)
class DecodedImage:
    """An upright RGB image, maybe decoded at a fraction of its size.

    Attributes:
        image: RGB, upright.
        width: of the upright original, pixels.
        height: of the upright original, pixels.
        format: one of `FORMATS`.
        scale: the original's pixels per pixel of `image`, along each side: 1, 2, 4 or 8.
        offset: where the original's left top corner lies in `image`, its pixels. A side that `scale` does not
            divide is rounded up, and mirroring brings the partial pixel to the front.
    """

    image: Image.Image
    width: int
    height: int
    format: str
    scale: int = 1
    offset: tuple[float, float] = (0.0, 0.0)


def decode_image(data: bytes, limits: ImageLimits | None = None, *, min_side: int | None = None) -> DecodedImage:
    """Decode one image as a viewer would show it: the first frame, upright, RGB.

    Args:
        data: a whole file.
        limits: formats, pixels and memory; the defaults where absent.
        min_side: allows large JPEGs to be decoded at 1/2, 1/4 or 1/8 as long as the shorter side keeps twice as
            many pixels as this; several times faster. None decodes in full.

    Raises:
        EmptyInput: no bytes.
        UnsupportedImageType: not a format of the allow-list, by the first bytes.
        TooManyPixels: more pixels than allowed, or far more than a file of its size has reason to hold.
        UndecodableImage: broken, truncated, or of a kind nobody can show.
    """
    limits = limits or ImageLimits()
    if not data:
        raise EmptyInput("The image has zero bytes.")
    format_ = _allowed_format(data, limits)
    try:
        return _decode(data, format_, limits, min_side)
    except FieldmarkError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise TooManyPixels(f"The {format_} image is too large to decode.") from error
    except Exception as error:
        # Pillow's plugins raise a dozen kinds on hostile bytes (SyntaxError, struct.error, IndexError, EOFError, …),
        # and all of them mean the same here.
        raise UndecodableImage(f"The {format_} image is broken, truncated or of an unknown kind.") from error


def prepare(decoded: DecodedImage, resize: Resize) -> npt.NDArray[np.uint8]:
    """Return what the network sees of an image: scaled and cropped, by bilinear interpolation with antialiasing.

    Args:
        decoded: the image.
        resize: geometry of the model.

    Returns:
        RGB, uint8, (S, S, 3).
    """
    left, top, right, bottom = resize.source_box(decoded.width, decoded.height)
    scale, (shift_x, shift_y) = decoded.scale, decoded.offset
    width, height = decoded.image.size
    box = (
        max(left / scale + shift_x, 0.0),
        max(top / scale + shift_y, 0.0),
        min(right / scale + shift_x, float(width)),
        min(bottom / scale + shift_y, float(height)),
    )
    square = decoded.image.resize((resize.crop, resize.crop), Image.Resampling.BILINEAR, box=box)
    return np.asarray(square)


# ── formats ──────────────────────────────────────────────────────────────────────────────────────────────────────────

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


def _allowed_format(data: bytes, limits: ImageLimits) -> str:
    format_ = sniff(data)
    if format_ is None:
        foreign = next((name for magic, name in _FOREIGN if data.startswith(magic)), None)
        raise UnsupportedImageType(
            f"This is {foreign}." if foreign else "The first bytes are of no known image format."
        )
    if format_ not in limits.formats:
        raise UnsupportedImageType(f"{format_} is switched off on this server.")
    if format_ == "HEIC" and _heif_plugin() is None:
        raise UnsupportedImageType(
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


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG's first picture, opened without building Python objects of its whole EXIF block.

    Pillow reads the print resolution out of it, which nobody needs here and which hostile tags make costly.
    """

    def _read_dpi_from_exif(self) -> None:
        return


def _open(data: bytes, format_: str) -> ImageFile.ImageFile:
    """Parse the header. `Image.open` would try every plugin of Pillow, and its bomb check is only a warning."""
    stream = io.BytesIO(data)
    match format_:
        case "JPEG":
            return _Jpeg(stream)
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
    assert opener is not None, "refused before"  # noqa: S101 - _allowed_format has just checked it
    return opener(stream)


# ── the way of one file ──────────────────────────────────────────────────────────────────────────────────────────────


def _decode(data: bytes, format_: str, limits: ImageLimits, min_side: int | None) -> DecodedImage:
    _check_header(data, format_, limits)
    image = _open(data, format_)
    _check_pixels(image.size, limits)
    if format_ == "JPEG":
        _check_scans(data, image)
    elif format_ == "BMP" and image.info.get("compression") in (1, 2) and len(data) > MAX_RUN_LENGTH_BYTES:
        raise UndecodableImage("The BMP image is run-length coded and too long for that.")
    stored, scale = image.size, 1
    if format_ == "JPEG" and min_side is not None:
        scale = _draft(image, min_side)
    # Pillow turns a TIFF upright while loading it, libheif a HEIC.
    orientation = 1 if format_ in ("TIFF", "HEIC") else read_orientation(image.info.get("exif"))
    with _BUDGET.reserved(_decode_bytes(data, format_, image, stored), len(data), limits):
        image.load()
        if format_ == "PNG":  # its EXIF may stand behind the pixels
            orientation = read_orientation(image.info.get("exif"))
        profile = image.info.get("icc_profile")
        rgb = _to_rgb(image, profile if isinstance(profile, bytes) else b"")
        if orientation != 1:
            rgb = rgb.transpose(_UPRIGHT[orientation])
    # libheif knows an image's size for certain only after decoding it.
    width, height = rgb.size if scale == 1 else stored[:: -1 if orientation >= 5 else 1]
    offset = _partial_pixels(rgb.size, (width, height), scale, orientation)
    return DecodedImage(rgb, width, height, format_, scale, offset)


def _check_pixels(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise UndecodableImage(f"The image has no pixels: {width}×{height}.")
    if width * height > limits.max_pixels:
        raise TooManyPixels(f"The image has {width}×{height} pixels; at most {limits.max_pixels:,} are decoded.")


def _draft(image: ImageFile.ImageFile, min_side: int) -> int:
    """Ask libjpeg for a fraction of the image, and return the fraction's denominator."""
    width = image.size[0]
    drafted = image.draft(None, (2 * min_side, 2 * min_side))
    return 1 if drafted is None else round(width / drafted[1][2])


def _partial_pixels(
    reduced: tuple[int, int], original: tuple[int, int], scale: int, orientation: int
) -> tuple[float, float]:
    """Return where the original's corner lies in the reduced image: not at 0 where mirroring moved a partial pixel."""
    mirrored_x, mirrored_y = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    return (
        reduced[0] - original[0] / scale if mirrored_x else 0.0,
        reduced[1] - original[1] / scale if mirrored_y else 0.0,
    )


# ── headers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_header(data: bytes, format_: str, limits: ImageLimits) -> None:
    """Look at what Pillow would act on while opening, before it does."""
    if format_ == "GIF":
        _check_pixels(_gif_size(data), limits)
    elif format_ == "WEBP":
        _check_pixels(_webp_size(data), limits)
    elif format_ == "TIFF":
        _check_directory(data, limits)
    elif format_ == "AVIF":
        # Pillow reads the EXIF block of an AVIF while opening it, tag by tag.
        for count, match in enumerate(re.finditer(rb"II\*\0|MM\0\*", data)):
            if count >= 16:
                raise UndecodableImage("The AVIF image has too many EXIF blocks.")
            _check_directory(data[match.start() :], limits)


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


_TIFF_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def _directory(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (tag, type, count, the 4 or 8 bytes of value or offset) of a TIFF's first directory."""
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    (start,) = struct.unpack_from(order + ("Q" if big else "L"), data, 8 if big else 4)
    (number,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    step, first = (20, start + 8) if big else (12, start + 2)
    if number > 65535:
        raise UndecodableImage("The TIFF directory has too many tags.")
    for i in range(number):
        yield struct.unpack_from(order + ("HHQ8s" if big else "HHL4s"), data, first + i * step)


def _check_directory(data: bytes, limits: ImageLimits) -> None:
    """Refuse a TIFF directory whose tags claim more than the file holds, or buffers beyond the image.

    Tags may point at the same bytes: 65,535 tags of one 20 MB file are a terabyte.
    """
    order = "little" if data[:1] == b"I" else "big"
    total, tile = 0, {322: 1, 323: 1}
    try:
        for tag, kind, count, value in _directory(data):
            size = _TIFF_UNITS.get(kind, 0) * count
            total += size if size > len(value) else 0
            if total > len(data) or (_TIFF_UNITS.get(kind, 1) > 1 and count > MAX_TAG_VALUES):
                raise UndecodableImage("The TIFF directory claims more than the file holds.")
            if tag in tile and kind in (3, 4) and count == 1:
                # "HL" values are left-justified in either byte order.
                tile[tag] = int.from_bytes(value[: _TIFF_UNITS[kind]], order)  # type: ignore[arg-type]
    except struct.error as error:
        raise UndecodableImage("The TIFF directory is broken or truncated.") from error
    if tile[322] * tile[323] > limits.max_pixels:
        raise TooManyPixels(f"The TIFF image has tiles of {tile[322]}×{tile[323]} pixels.")


_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def _check_scans(data: bytes, image: ImageFile.ImageFile) -> None:
    """Bound the work of a JPEG with many scans."""
    if not _is_buffered(data, image):
        return
    scans, at = 0, max(data.rfind(b"\xff\xda", 0, _header_end(image)), 0)
    allowed = MAX_SCAN_PIXELS // (image.size[0] * image.size[1])
    while (marker := _MARKER.search(data, at)) is not None:
        kind, at = data[marker.start() + 1], marker.end()
        if kind == 0xD9:
            return
        scans += kind == 0xDA
        if scans > allowed:
            raise UndecodableImage("The JPEG image has too many scans.")
        at += int.from_bytes(data[at : at + 2], "big")


def _header_end(image: ImageFile.ImageFile) -> int:
    """Return where Pillow stopped reading: behind the header of the first scan."""
    return image.fp.tell() if image.fp is not None else 0


def _is_buffered(data: bytes, image: ImageFile.ImageFile) -> bool:
    """Return whether libjpeg holds all coefficients at once: progressive, or the colours in scans of their own."""
    if "progressive" in image.info:
        return True
    scan = data.rfind(b"\xff\xda", 0, _header_end(image))
    return scan >= 0 and data[scan + 4 : scan + 5] != bytes([len(image.getbands())])


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_NATIVE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
# What a decoder holds beside Pillow's own image, bytes a pixel; measured on flat images of 12 million pixels.
_DECODER_BYTES = {"WEBP": 12, "AVIF": 8, "HEIC": 6, "TIFF": 4}


def _decode_bytes(data: bytes, format_: str, image: ImageFile.ImageFile, stored: tuple[int, int]) -> int:
    """Return about how much memory decoding and turning to RGB will take, bytes."""
    pixels = image.size[0] * image.size[1]
    each = _NATIVE_BYTES.get(image.mode, 4) + _DECODER_BYTES.get(format_, 0)
    if image.mode != "RGB" or "transparency" in image.info:
        each += 4
    if format_ not in ("TIFF", "HEIC") and (
        read_orientation(image.info.get("exif")) != 1 or (format_ == "PNG" and b"eXIf" in data)
    ):
        each += 4
    if image.size == stored:  # someone may draw on a copy, and encode that
        each = max(each, 10)
    coefficients = 0
    if isinstance(image, _Jpeg) and _is_buffered(data, image):
        widest = max(h * v for _, h, v, _ in image.layer)
        coefficients = sum(2 * stored[0] * stored[1] * h * v // max(widest, 1) for _, h, v, _ in image.layer)
    return pixels * each + coefficients


class _Budget:
    """Memory that all decoding threads share: large images wait for each other, small ones pass side by side."""

    total: ClassVar[int] = BOMB_BYTES

    def __init__(self) -> None:
        self._turnstile = threading.Lock()
        self._changed = threading.Condition()
        self._used = 0

    @contextmanager
    def reserved(self, wanted: int, file_bytes: int, limits: ImageLimits) -> Iterator[None]:
        """Hold `wanted` bytes, waiting for them in the order of arrival.

        Raises:
            TooManyPixels: more than any file may take, or than one of `file_bytes` has reason to.
        """
        if wanted > limits.max_decode_bytes or (wanted > self.total and wanted > BYTES_PER_BYTE * file_bytes):
            raise TooManyPixels(
                f"Decoding {file_bytes:,} bytes would take {wanted // MIB:,} MiB of memory; "
                f"{self.total // MIB} MiB are given to any file, more only to large ones."
            )
        share = min(wanted, self.total)
        with self._turnstile, self._changed:
            self._changed.wait_for(lambda: self._used + share <= self.total)
            self._used += share
        try:
            yield
        finally:
            with self._changed:
                self._used -= share
                self._changed.notify_all()


_BUDGET = _Budget()


# ── orientation ──────────────────────────────────────────────────────────────────────────────────────────────────────

_UPRIGHT = {
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

    Reads this one tag: parsing the whole block builds an object of every tag that a stranger put there.

    Args:
        exif: the block, with or without its `Exif` prefix; anything else counts as absent.
    """
    if not isinstance(exif, bytes):
        return 1
    block = exif.removeprefix(b"Exif\0\0")
    if block[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    try:
        for tag, kind, count, value in _directory(block):
            if tag == 0x0112 and kind == 3 and count == 1:
                found = int.from_bytes(value[:2], "little" if block[:1] == b"I" else "big")
                return found if found in _UPRIGHT else 1
    except (struct.error, FieldmarkError):
        return 1
    return 1


# ── colour ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")


def _to_rgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Return the image in sRGB over white, through strips where it is large, and without the file behind it."""
    if image.mode == "RGB" and "transparency" not in image.info:
        _show_rgb(image, profile)
        return Image.Image()._new(image.im)  # `copy` would hold the pixels twice
    convert = _converter(image, profile)
    width, height = image.size
    rows = max(1, STRIP_PIXELS // width)
    if rows >= height:
        return convert(image)
    result = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        result.paste(convert(image.crop((0, top, width, min(top + rows, height)))), (0, top))
    return result


def _show_rgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Turn an RGB image from its own colour space into sRGB, in place."""
    transform = _to_srgb(profile, "RGB")
    if transform is not None:
        ImageCms.applyTransform(image, transform, inPlace=True)
    return image


def _converter(image: Image.Image, profile: bytes) -> Callable[[Image.Image], Image.Image]:
    """Return what turns this image, or a strip of it, into sRGB over white."""
    if image.mode in _DEEP:
        low, high = _depth(image)
        key = image.info.get("transparency")
        return lambda part: _scale_deep(part, low, high, key if isinstance(key, int) else None)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return lambda part: _show_rgb(_over_white(part), profile)
    transform = _to_srgb(profile, image.mode) if image.mode in ("LAB", "CMYK", "L") else None
    if transform is not None:
        return lambda part: ImageCms.applyTransform(part, transform) or part
    return lambda part: _show_rgb(part.convert("RGB"), profile)


def _over_white(image: Image.Image) -> Image.Image:
    """Return an image with alpha, or with a transparent colour, as it looks on white paper."""
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # the colour of a 16-bit file whose pixels were cut to 8
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if image.mode == "La":
        image = image.convert("LA")
    colour = image.convert("RGBA")
    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, colour).convert("RGB")


def _depth(image: Image.Image) -> tuple[float, float]:
    """Return the values that are shown black and white.

    16-bit integers span their range. Wider integers and floats say nothing about theirs: the smallest usual range
    that holds all values is taken, else the values' own.
    """
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    low, high = np.inf, -np.inf
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        finite = strip[np.isfinite(strip)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    for usual in (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0):
        if low >= 0 and high <= usual:
            return 0.0, usual
    return low, high


def _scale_deep(image: Image.Image, low: float, high: float, transparent: int | None) -> Image.Image:
    """Return grey values of more than 8 bits scaled to 8, a transparent value as white."""
    values = np.asarray(image).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        unit = (values - low) / (high - low) if high > low else np.zeros_like(values)
        grey = np.rint(np.clip(np.nan_to_num(unit, nan=0.0, posinf=1.0, neginf=0.0), 0, 1) * 255).astype(np.uint8)
    if transparent is not None:
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


class _Transforms:
    """The last few colour transforms, because photos of one camera share their profile."""

    def __init__(self, size: int = 16) -> None:
        self._known: OrderedDict[tuple[bytes, str], ImageCms.ImageCmsTransform | None] = OrderedDict()
        self._lock = threading.Lock()
        self._size = size

    def get(self, profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
        """Return the transform from a profile to sRGB, or None where there is nothing to do or to trust."""
        key = (sha256(profile).digest(), mode)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        transform = self._build(profile, mode)
        with self._lock:
            self._known[key] = transform
            while len(self._known) > self._size:
                self._known.popitem(last=False)
        return transform

    @staticmethod
    def _build(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
        try:
            source: Any = (
                ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else ImageCms.createProfile("LAB", 5000)
            )
            if profile and mode != "LAB" and "sRGB" in ImageCms.getProfileDescription(source):
                return None
            # Without its one-pixel cache a transform may be used by several threads.
            return ImageCms.buildTransform(
                source, ImageCms.createProfile("sRGB"), mode, "RGB", flags=ImageCms.Flags.NOCACHE
            )
        except Exception:
            # Broken, or of another colour space than the pixels: viewers show the pixels as they are.
            return None


_TRANSFORMS = _Transforms()


def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    if mode != "LAB" and not 0 < len(profile) <= PROFILE_BYTES:
        return None
    return _TRANSFORMS.get(profile if len(profile) <= PROFILE_BYTES and mode != "LAB" else b"", mode)
