"""Bytes of any origin → an upright RGB image as a viewer shows it, within a memory limit; image → network input.

The steps: first bytes → format (allow-list) → its header's pixels and the memory that decoding will take →
decode, never truncated → orientation, depth, alpha and colour profile → RGB. Only errors of `model.photo.errors`
are raised. Why in this order: Pillow's own pixel limit merely warns, and a 100 kB file can require gigabytes.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from model.contract.geometry import Resize
from model.photo.budget import BUDGET, decode_bytes
from model.photo.colour import to_rgb
from model.photo.errors import PhotoError, TooManyPixels, UndecodablePhoto
from model.photo.formats import allowed_format, open_file
from model.photo.headers import MAX_RUN_LENGTH_BYTES, check_header, check_pixels, check_scans
from model.photo.limits import ImageLimits
from model.photo.orientation import UPRIGHT, partial_pixels, read_orientation
from model.photo.png import Frame

DECODER = 3
"""Version of the pixels: raise it when any file decodes differently, so that no cache of an older decoder is read."""


@dataclass(frozen=True)
class DecodedImage:
    """An upright RGB image, maybe decoded at a fraction of its size.

    Attributes:
        image: RGB, upright.
        width: of the upright original, pixels.
        height: of the upright original, pixels.
        format: one of `FORMATS`.
        scale: the original's pixels per pixel of `image`, along each side: 1, 2, 4 or 8.
        offset: position of the original's left top corner in `image`, its pixels. A side that `scale` does not
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
        EmptyPhoto: no bytes.
        UnsupportedFormat: not a format of the allow-list, by the first bytes.
        TooManyPixels: more pixels than allowed, or far more than a file of its size may hold.
        UndecodablePhoto: broken, truncated, or of an unknown kind.
    """
    limits = limits or ImageLimits()
    format_ = allowed_format(data, limits)
    try:
        return _decode(data, format_, limits, min_side)
    except PhotoError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise TooManyPixels(f"The {format_} image is too large to decode.") from error
    except Exception as error:
        # Pillow's plugins raise a dozen kinds on hostile bytes (SyntaxError, struct.error, IndexError, EOFError, …),
        # and all of them mean the same here.
        raise UndecodablePhoto(f"The {format_} image is broken, truncated or of an unknown kind.") from error


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


def _decode(data: bytes, format_: str, limits: ImageLimits, min_side: int | None) -> DecodedImage:
    check_header(data, format_, limits)
    image = open_file(data, format_)
    check_pixels(image.size, limits)
    frame = image.info.get("frame") if format_ == "PNG" else None
    if frame is not None:
        check_pixels(frame.canvas, limits)
    if format_ == "JPEG":
        check_scans(data, image, limits)
    elif format_ == "BMP" and image.info.get("compression") in (1, 2) and len(data) > MAX_RUN_LENGTH_BYTES:
        raise UndecodablePhoto("The BMP image is run-length coded and too long for that.")
    stored, scale = image.size, 1
    if format_ == "JPEG" and min_side is not None:
        scale = _draft(image, min_side)
    # Pillow turns a TIFF upright while loading it, libheif a HEIC.
    orientation = 1 if format_ in ("TIFF", "HEIC") else read_orientation(image.info.get("exif"))
    wanted = decode_bytes(data, format_, image, stored) + (3 * prod(frame.canvas) if frame is not None else 0)
    with BUDGET.reserved(wanted, len(data), limits):
        image.load()
        if format_ == "PNG":  # its EXIF may stand behind the pixels
            orientation = read_orientation(image.info.get("exif"))
        profile = image.info.get("icc_profile")
        rgb = to_rgb(image, profile if isinstance(profile, bytes) else b"")
        if frame is not None:
            rgb = _on_canvas(rgb, frame)
        if orientation != 1:
            rgb = rgb.transpose(UPRIGHT[orientation])
    # libheif knows the exact size only after decoding.
    width, height = rgb.size if scale == 1 else stored[:: -1 if orientation >= 5 else 1]
    offset = partial_pixels(rgb.size, (width, height), scale, orientation)
    return DecodedImage(rgb, width, height, format_, scale, offset)


def _on_canvas(rgb: Image.Image, frame: Frame) -> Image.Image:
    """Return an animation's first frame at its place on white paper."""
    if rgb.size == frame.canvas:
        return rgb
    canvas = Image.new("RGB", frame.canvas, "white")
    canvas.paste(rgb, frame.corner)
    return canvas


def _draft(image: ImageFile.ImageFile, min_side: int) -> int:
    """Set libjpeg to decode a fraction of the image, and return the fraction's denominator."""
    width = image.size[0]
    drafted = image.draft(None, (2 * min_side, 2 * min_side))
    return 1 if drafted is None else round(width / drafted[1][2])
