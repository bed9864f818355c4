"""One photo saved in every kind that decoders like to get wrong."""

import zlib

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.model.photo.files import chunk, encoded, oriented, png
from tests.model.photo.profiles import DISPLAY_P3, DULL_INKS, LIGHT_GREY, converted

GREY, COLOUR, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 4, 6
"""PNG's colour types."""


def deep_png(values: npt.NDArray[np.uint16], colour: int, profile: bytes = b"") -> bytes:
    """Return a 16-bit PNG of an array (h, w) or (h, w, channels)."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    extra = [chunk(b"iCCP", b"profile\0\0" + zlib.compress(profile))] if profile else []
    return png(width, height, 16, colour, rows, *extra)


def deepened(image: Image.Image) -> npt.NDArray[np.uint16]:
    """Return an image's values in 16 bits, with low bytes that are not those of 8 bits."""
    values = np.asarray(image).astype(np.int64) * 257
    grain = np.random.default_rng(1).integers(-120, 120, values.shape)
    return (values + grain).clip(0, 65535).astype(np.uint16)


def xmp(orientation: int) -> bytes:
    """Return an XMP packet that names an orientation."""
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/>'
        b"</rdf:RDF></x:xmpmeta>" % orientation
    )


def kinds(photo: Image.Image) -> dict[str, bytes]:
    """Return the photo's files by kind; those whose name begins with `tiff` no browser shows.

    Args:
        photo: sRGB, upright.
    """
    grey, inks = photo.convert("L"), photo.convert("CMYK")
    faded = photo.convert("RGBA")
    faded.putalpha(Image.linear_gradient("L").resize(photo.size))
    p3 = converted(photo, DISPLAY_P3, "RGB")
    note = PngInfo()
    note.add_itxt("XML:com.adobe.xmp", xmp(6).decode())
    return {
        "16-bit grey png": deep_png(deepened(grey), GREY),
        "16-bit grey png with profile": deep_png(deepened(grey), GREY, LIGHT_GREY),
        "16-bit grey png with alpha": deep_png(deepened(faded.convert("LA")), GREY_ALPHA),
        "16-bit png": deep_png(deepened(photo), COLOUR),
        "16-bit p3 png": deep_png(deepened(p3), COLOUR, DISPLAY_P3),
        "16-bit png with alpha": deep_png(deepened(faded), COLOUR_ALPHA),
        "p3 jpeg": encoded(p3, "JPEG", quality=95, icc_profile=DISPLAY_P3),
        "p3 png": encoded(p3, "PNG", icc_profile=DISPLAY_P3),
        "p3 webp": encoded(p3, "WEBP", quality=95, icc_profile=DISPLAY_P3),
        "p3 png with alpha": encoded(faded, "PNG", icc_profile=DISPLAY_P3),
        "p3 palette png": encoded(p3.quantize(64), "PNG", icc_profile=DISPLAY_P3),
        "palette png with a transparent colour": encoded(photo.quantize(64), "PNG", transparency=3),
        "palette png with alpha": encoded(photo.quantize(64), "PNG", transparency=bytes(range(0, 256, 4))),
        "png with alpha": encoded(faded, "PNG"),
        "grey png with alpha and profile": encoded(faded.convert("LA"), "PNG", icc_profile=LIGHT_GREY),
        "grey jpeg with profile": encoded(grey, "JPEG", icc_profile=LIGHT_GREY),
        "colour jpeg with a grey profile": encoded(photo, "JPEG", icc_profile=LIGHT_GREY),
        "cmyk jpeg": encoded(inks, "JPEG", quality=95),
        "cmyk jpeg with profile": encoded(inks, "JPEG", quality=95, icc_profile=DULL_INKS),
        "cmyk jpeg with a p3 profile": encoded(inks, "JPEG", quality=95, icc_profile=DISPLAY_P3),
        "jpeg turned by exif": encoded(photo, "JPEG", exif=oriented(6)),
        "jpeg turned by xmp alone": encoded(photo, "JPEG", xmp=xmp(6)),
        "jpeg turned by exif, otherwise by xmp": encoded(photo, "JPEG", exif=oriented(6), xmp=xmp(3)),
        "png turned by exif": encoded(photo, "PNG", exif=oriented(6)),
        "png turned by xmp alone": encoded(photo, "PNG", pnginfo=note),
        "webp turned by xmp alone": encoded(photo, "WEBP", xmp=xmp(6)),
        "tiff of lab": encoded(_lab(photo), "TIFF"),
        "tiff of cmyk": encoded(inks, "TIFF"),
        "tiff of 16-bit grey": encoded(Image.fromarray(deepened(grey)), "TIFF"),
        "tiff of floats": encoded(Image.fromarray(np.asarray(grey).astype(np.float32) / 255), "TIFF"),
    }


def _lab(photo: Image.Image) -> Image.Image:
    from PIL import ImageCms

    found = ImageCms.profileToProfile(
        photo, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB", 5000), outputMode="LAB"
    )
    assert found is not None
    return found
