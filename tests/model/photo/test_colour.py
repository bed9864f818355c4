"""Every kind of image is shown in the colours in which a viewer would show it."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from model.photo.decode import decode_image
from tests.model.photo.files import (
    chunk,
    encoded,
    pixels,
    png,
)
from tests.model.photo.kinds import GREY, deep_png
from tests.model.photo.profiles import DISPLAY_P3, DULL_INKS, LIGHT_GREY


def grey(*values: int) -> list[list[int]]:
    """Return RGB triples of grey."""
    return [[value] * 3 for value in values]


def row(image: Image.Image, values: list[object]) -> Image.Image:
    """Return the image with these pixels in its only row."""
    image.putdata(values)
    return image


def test_one_bit_is_black_and_white() -> None:
    """A bilevel image is black and white, not 0 and 1."""
    image = row(Image.new("1", (2, 1)), [0, 255])
    assert grey(0, 255) == pixels(encoded(image, "PNG"))[0].tolist()


def test_grey_stays_grey() -> None:
    """A grey image has three equal channels."""
    image = row(Image.new("L", (3, 1)), [0, 100, 255])
    assert grey(0, 100, 255) == pixels(encoded(image, "PNG"))[0].tolist()


def test_sixteen_bits_are_scaled() -> None:
    """A 16-bit grey PNG spans black to white; cutting it at 255 would turn it white."""
    image = Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
    assert grey(0, 1, 128, 255) == pixels(encoded(image, "PNG"))[0].tolist()


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bit_tiff_is_scaled_in_either_byte_order(order: str) -> None:
    """A 16-bit TIFF is scaled, whichever byte comes first."""
    values = np.array([0, 257, 32896, 65535], dtype=order).tobytes()
    mark, code = (b"II*\0", "<") if order == "<u2" else (b"MM\0*", ">")
    tags = [(256, 4, 1, 4), (257, 4, 1, 1), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 122)]
    tags += [(277, 3, 1, 1), (278, 4, 1, 1), (279, 4, 1, 8)]
    body = b""
    for tag, kind, count, value in tags:
        packed = struct.pack(code + ("H2x" if kind == 3 else "L"), value)
        body += struct.pack(code + "HHL", tag, kind, count) + packed
    data = mark + struct.pack(code + "L", 8) + struct.pack(code + "H", len(tags)) + body + b"\0\0\0\0" + values
    assert grey(0, 1, 128, 255) == pixels(data)[0].tolist()


def test_sixteen_bit_colour_png_keeps_its_high_bytes() -> None:
    """A 48-bit PNG loses only the low bytes."""
    rows = b"\0" + struct.pack(">6H", 0xFF00, 0x8000, 0x0100, 0, 0x7FFF, 0xFFFF)
    assert [[255, 128, 1], [0, 127, 255]] == pixels(png(2, 1, 16, 2, rows))[0].tolist()


def test_transparent_colour_of_sixteen_bits_is_white() -> None:
    """A transparent 16-bit grey shows the paper."""
    rows = b"\0" + struct.pack(">2H", 100, 65535 // 2)
    data = png(2, 1, 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 100)))
    assert grey(255, 127) == pixels(data)[0].tolist()


def test_transparent_colour_of_a_48_bit_png_is_white() -> None:
    """The transparent colour is compared in the 8 bits that are left of it."""
    rows = b"\0" + struct.pack(">6H", 0xFF00, 0, 0, 0, 0xFF00, 0)
    data = png(2, 1, 16, 2, rows, chunk(b"tRNS", struct.pack(">3H", 0xFF00, 0, 0)))
    assert [[255, 255, 255], [0, 255, 0]] == pixels(data)[0].tolist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 32767.5, 65535.0], [0, 128, 255]),
        ([-2.0, 0.0, 2.0], [0, 128, 255]),
        ([np.nan, 0.0, np.inf], [0, 0, 255]),
        ([7e9, 7e9, 7e9], [0, 0, 0]),
    ],
)
def test_floats_are_scaled_to_the_smallest_usual_range(values: list[float], expected: list[int]) -> None:
    """Float images are shown in 0…1, 0…255, 0…65535 or their own range; what is no number is black."""
    image = Image.fromarray(np.array([values], dtype=np.float32))
    shown = pixels(encoded(image, "TIFF"))[0, :, 0].astype(int)
    assert np.abs(shown - expected).max() <= 1


def test_wide_integers_are_scaled() -> None:
    """32-bit integers are shown in the smallest usual range that holds them."""
    image = Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.int32))
    assert grey(0, 128, 255) == pixels(encoded(image, "TIFF"))[0].tolist()


def test_alpha_is_shown_over_white() -> None:
    """Transparent pixels show white paper, not the colour that hides behind them."""
    image = row(Image.new("RGBA", (3, 1)), [(0, 0, 0, 0), (255, 0, 0, 255), (0, 0, 255, 51)])
    assert [[255, 255, 255], [255, 0, 0], [204, 204, 255]] == pixels(encoded(image, "PNG"))[0].tolist()


def test_grey_with_alpha_is_shown_over_white() -> None:
    """The same for grey."""
    image = row(Image.new("LA", (2, 1)), [(0, 0), (10, 255)])
    assert grey(255, 10) == pixels(encoded(image, "PNG"))[0].tolist()


@pytest.mark.parametrize("format_", ["WEBP", "TIFF"])
def test_alpha_of_other_formats_is_shown_over_white(format_: str) -> None:
    """Alpha means the same in every format."""
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    options = {"lossless": True, "exact": True} if format_ == "WEBP" else {}
    assert [255, 255, 255] == pixels(encoded(image, format_, **options))[8, 8].tolist()


@pytest.mark.parametrize("format_", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette_colours(format_: str) -> None:
    """Palette images get their colours."""
    image = row(Image.new("P", (2, 1)), [0, 1])
    image.putpalette([10, 20, 30, 200, 100, 0] + [0] * 762)
    assert [[10, 20, 30], [200, 100, 0]] == pixels(encoded(image, format_))[0].tolist()


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_palette_with_transparency_is_shown_over_white(transparency: int | bytes) -> None:
    """One transparent index, or an alpha for each."""
    image = row(Image.new("P", (2, 1)), [0, 1])
    image.putpalette([10, 20, 30, 200, 100, 0])
    assert [[255, 255, 255], [200, 100, 0]] == pixels(encoded(image, "PNG", transparency=transparency))[0].tolist()


@pytest.mark.parametrize(("mode", "key", "hidden"), [("RGB", (1, 2, 3), (1, 2, 3)), ("L", 9, 9), ("1", 0, 0)])
def test_transparent_colour_is_white(mode: str, key: object, hidden: object) -> None:
    """A PNG without alpha may name one transparent colour."""
    image = row(Image.new(mode, (2, 1), "white"), [hidden, "white" and (255, 255, 255) if mode == "RGB" else 255])
    assert grey(255, 255) == pixels(encoded(image, "PNG", transparency=key))[0].tolist()


def test_cmyk_is_turned_to_rgb() -> None:
    """Cyan ink takes red away; black ink everything."""
    image = row(Image.new("CMYK", (3, 1)), [(255, 0, 0, 0), (0, 0, 0, 255), (0, 0, 0, 0)])
    assert [[0, 255, 255], [0, 0, 0], [255, 255, 255]] == pixels(encoded(image, "TIFF"))[0].tolist()


def test_cmyk_jpeg_is_not_inverted() -> None:
    """Adobe's CMYK JPEGs are stored inverted, and shown right."""
    image = Image.new("CMYK", (16, 16), (0, 0, 0, 0))
    assert [255, 255, 255] == pixels(encoded(image, "JPEG"))[8, 8].tolist()


@pytest.mark.parametrize(
    ("lab", "expected"), [((50, 0, 0), (119, 119, 119)), ((54.3, 80.8, 69.9), (255, 0, 0)), ((100, 0, 0), (255,) * 3)]
)
def test_lab_is_turned_to_srgb(lab: tuple[float, ...], expected: tuple[int, ...]) -> None:
    """CIE L*a*b* under D50, the reference white of print: mid grey, sRGB's red, white."""
    lightness, a, b = lab
    stored = round(lightness * 2.55), round(a) + 128, round(b) + 128
    data = encoded(Image.new("LAB", (8, 8), stored), "TIFF")
    assert np.abs(pixels(data)[4, 4].astype(int) - expected).max() <= 6


def test_ycbcr_tiff() -> None:
    """TIFFs may hold luma and chroma."""
    data = encoded(Image.new("RGB", (16, 16), (200, 50, 50)).convert("YCbCr"), "TIFF")
    assert np.abs(pixels(data)[8, 8].astype(int) - (200, 50, 50)).max() <= 3


def _wide_profile() -> bytes:
    """Return a profile whose white is sRGB's and whose grey is darker: plain RGB with another tone curve."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # sRGB's parametric curve 'para' type 3 begins with gamma 2.4 as 16.16 fixed point.
    at = profile.find(b"para")
    assert at > 0
    profile[at + 12 : at + 16] = struct.pack(">L", int(1.2 * 65536))
    return bytes(profile).replace(b"s\0R\0G\0B\0", b"o\0t\0h\0e\0").replace(b"sRGB built-in", b"other profile")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_profile_is_applied(mode: str) -> None:
    """An image with a colour profile is shown as a viewer with colour management would show it."""
    image = Image.new("RGB", (4, 4), (100, 150, 200))
    profile = _wide_profile()
    shown = ImageCms.profileToProfile(
        image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    )
    assert shown is not None
    expected = np.asarray(shown)
    assert np.abs(expected.astype(int) - np.asarray(image)).max() > 10
    data = encoded(image.quantize(2) if mode == "P" else image.convert(mode), "PNG", icc_profile=profile)
    assert expected.tolist() == pixels(data).tolist()


def test_profile_of_grey_is_applied_to_every_grey() -> None:
    """Grey of 8 bits, of 16 bits and under alpha come out alike."""
    values = np.array([[0, 60, 128, 200, 255]], dtype=np.uint8)
    plain = Image.fromarray(values)
    shown = pixels(encoded(plain, "PNG", icc_profile=LIGHT_GREY))
    assert shown[0, 2, 0] > 128 + 25
    assert np.array_equal(shown, pixels(deep_png(values.astype(np.uint16) * 257, GREY, LIGHT_GREY)))
    assert np.array_equal(shown, pixels(encoded(plain.convert("LA"), "PNG", icc_profile=LIGHT_GREY)))
    assert np.array_equal(shown[:, 1:], pixels(encoded(plain, "PNG", icc_profile=LIGHT_GREY, transparency=0))[:, 1:])


def test_profile_comes_before_the_paper() -> None:
    """Half transparent black over white is the same grey in every colour space."""
    image = Image.new("LA", (1, 1), (0, 128))
    assert grey(127) == pixels(encoded(image, "PNG"))[0].tolist()
    assert grey(127) == pixels(encoded(image, "PNG", icc_profile=LIGHT_GREY))[0].tolist()


@pytest.mark.parametrize(("mode", "profile"), [("CMYK", DISPLAY_P3), ("RGB", LIGHT_GREY), ("RGB", DULL_INKS)])
def test_profile_of_other_pixels_is_ignored(mode: str, profile: bytes) -> None:
    """A profile that describes another kind of pixels does not change these."""
    image = Image.linear_gradient("L").convert("RGB").convert(mode)
    plain, labelled = (encoded(image, "JPEG", quality=95, icc_profile=icc) for icc in (b"", profile))
    assert np.array_equal(pixels(plain), pixels(labelled))


@pytest.mark.parametrize("profile", [b"nonsense", b"\0" * 200, b"x" * (1024 * 1024 + 1)])
def test_broken_colour_profile_is_ignored(profile: bytes) -> None:
    """A profile that cannot be read does not spoil the image."""
    data = encoded(Image.new("RGB", (4, 4), (100, 150, 200)), "JPEG", icc_profile=profile)
    assert np.abs(pixels(data).astype(int) - (100, 150, 200)).max() <= 2


def test_large_images_go_through_strips_alike() -> None:
    """An image larger than a strip has the same pixels at the end as at the start."""
    values = np.tile(np.arange(1000, dtype=np.uint16) * 65, (1000, 1))
    shown = pixels(encoded(Image.fromarray(values), "PNG"))
    assert np.rint(values / 257).astype(int).tolist() == shown[:, :, 2].tolist()


@pytest.mark.parametrize("format_", ["AVIF", "HEIF", "WEBP", "JPEG"])
def test_lossy_formats_are_close(format_: str) -> None:
    """Every lossy format of the allow-list is decoded."""
    if format_ == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    image = Image.new("RGB", (64, 48), (30, 160, 90))
    decoded = decode_image(encoded(image, format_))
    assert (64, 48) == (decoded.width, decoded.height)
    assert np.abs(np.asarray(decoded.image).astype(int) - (30, 160, 90)).max() <= 6


def test_first_frame_of_an_animation() -> None:
    """Of several frames, pages or pictures the first is taken."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for format_ in ("GIF", "TIFF", "PNG", "WEBP"):
        options = {"lossless": True} if format_ == "WEBP" else {}
        data = encoded(frames[0], format_, save_all=True, append_images=frames[1:], **options)
        assert [255, 0, 0] == pixels(data)[4, 4].tolist()
