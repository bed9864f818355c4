"""Any mode and colour space → sRGB over white paper, as a browser shows it (`tests/contract/test_browser.py`).

What was decided, and where a browser was not followed:

- **Profiles.** An ICC profile that describes the pixels is applied, in every mode: RGB (Display P3, Adobe RGB),
  palette, grey of 8 and 16 bits, alpha, CMYK. Grey pixels follow an RGB profile too, by its tone curves. Any other
  mismatch is ignored, and so is a broken profile: the pixels are shown as they are.
- **16 bits.** Scaled from 0…65535 to 0…255. Chromium 156 cuts the low byte off, the PNG specification recommends
  rounding (13.12): grey is rounded here, one level apart at most; colours lose the low byte in Pillow as there.
- **CMYK.** By its CMYK profile, else naively: red = (255 − cyan) × (255 − black) / 255. Adobe's JPEGs are
  stored inverted; the decoder turns them back before either.
- **Alpha**, and transparent colours of a palette or of grey: over white in sRGB, after the profile. A browser shows the
  page behind; paper is white. Lossy AVIFs with alpha come out a few levels apart from Chromium's.
- **Lab, floats and wide integers** occur in TIFFs, which Chromium does not show: Lab of print's white (D50);
  floats and wide integers from their smallest usual range.
- PNG's `gAMA`, `cHRM` and `cICP` are not read: Chromium follows them, Pillow does not apply them.

Sources: PNG specification, third edition (https://www.w3.org/TR/png-3/), section 13; the canvas pixels of
Chromium 156 for every kind.
"""

import io
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from model.photo.limits import MIB

PROFILE_BYTES = 4 * MIB
"""Colour profiles larger than this are ignored; those of printing houses have half a megabyte, of scanners two."""
KNOWN, KNOWN_BYTES = 8, 1 * MIB
"""How many transforms are kept, because photos of one camera share their profile, and of profiles up to which size: a
transform holds about as much as its profile. Of larger ones the last is kept, for the strips of its image."""
STRIP_PIXELS = 250_000
"""Conversions of large images go through strips of this many pixels, so that no second image is in memory."""

_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")


def to_rgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Return the image in sRGB over white, through strips where it is large, and without a reference to the file."""
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
        transparent = key if isinstance(key, int) else None
        return lambda part: _show_grey(_scale_deep(part, low, high, transparent), profile)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return lambda part: _over_white(part, profile)
    if image.mode in ("LAB", "CMYK"):
        transform = _to_srgb(profile, image.mode)
        return lambda part: _transformed(part, transform)
    if image.mode == "L":
        return lambda part: _show_grey(part, profile)
    return lambda part: _show_rgb(part.convert("RGB"), profile)


def _transformed(image: Image.Image, transform: ImageCms.ImageCmsTransform | None) -> Image.Image:
    if transform is None:
        return image.convert("RGB")
    return ImageCms.applyTransform(image, transform) or image


def _show_grey(image: Image.Image, profile: bytes) -> Image.Image:
    """Turn an 8-bit grey image into sRGB, by a profile of grey or by the tone curves of one of RGB."""
    transform = _to_srgb(profile, "L")
    return _show_rgb(image.convert("RGB"), profile) if transform is None else _transformed(image, transform)


def _over_white(image: Image.Image, profile: bytes) -> Image.Image:
    """Return an image with alpha, or with a transparent colour, in sRGB as it looks on white paper."""
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # the colour of a 16-bit file whose pixels were cut to 8
        image.info["transparency"] = tuple(value >> 8 for value in key)
    show = _show_grey if image.mode in ("L", "LA", "La") else _show_rgb
    if image.mode == "La":
        image = image.convert("LA")
    colour = image.convert("RGBA")
    if profile:
        alpha = colour.getchannel("A")
        colour = show(colour.getchannel("R") if show is _show_grey else colour.convert("RGB"), profile)
        colour.putalpha(alpha)
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
    return Image.fromarray(grey)


def _build(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB, or None where there is nothing to do or to trust."""
    try:
        source: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else ImageCms.createProfile("LAB", 5000)
        if profile and "sRGB" in ImageCms.getProfileDescription(source):
            return None
        # Without its one-pixel cache a transform may be used by several threads.
        return ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB", flags=ImageCms.Flags.NOCACHE
        )
    except Exception:
        # Broken, or of another colour space than the pixels: viewers show the pixels as they are.
        return None


_known, _last_large = lru_cache(KNOWN)(_build), lru_cache(1)(_build)


def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    if mode == "LAB":
        return _known(b"", mode)
    if not 0 < len(profile) <= PROFILE_BYTES:
        return None
    return (_known if len(profile) <= KNOWN_BYTES else _last_large)(profile, mode)
