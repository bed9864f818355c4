"""The decoder shows every kind of image as a viewer would, and takes no more memory than it is given."""

import io
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from model.contract.geometry import Resize
from service.errors import EmptyInput, FieldmarkError, TooManyPixels, UndecodableImage, UnsupportedImageType
from service.image import FORMATS, DecodedImage, ImageLimits, decode_image, prepare, read_orientation, sniff
from service.settings import Settings

ORIENTATION = 0x0112


def encoded(image: Image.Image, format_: str, **options: object) -> bytes:
    """Return the image's file."""
    stream = io.BytesIO()
    image.save(stream, format_, **options)
    return stream.getvalue()


def pixels(data: bytes) -> npt.NDArray[np.uint8]:
    """Return the decoded pixels, (height, width, 3)."""
    return np.asarray(decode_image(data).image)


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return one PNG chunk."""
    return struct.pack(">L", len(body)) + kind + body + struct.pack(">L", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """Return a PNG written by hand: rows include their filter bytes."""
    head = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, 0))
    tail = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + tail


def tiff(tags: list[tuple[int, int, int, bytes]], tail: bytes = b"") -> bytes:
    """Return a little-endian TIFF of one directory: (tag, kind, count, 4 bytes)."""
    body = b"".join(struct.pack("<HHL4s", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<L", 8) + struct.pack("<H", len(tags)) + body + b"\0\0\0\0" + tail


def long(value: int) -> bytes:
    """Return a TIFF value of four bytes."""
    return struct.pack("<L", value)


def oriented(orientation: int) -> bytes:
    """Return an EXIF block with this orientation."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes()


# ── colours ──────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    """Adobe's CMYK JPEGs are stored inverted, which nobody should see."""
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


# ── orientation ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _quarters(width: int = 48, height: int = 32) -> Image.Image:
    """Return an image with a colour in each quarter."""
    image = Image.new("RGB", (width, height))
    colours = ((0, 0, "red"), (width // 2, 0, "lime"), (0, height // 2, "blue"), (width // 2, height // 2, "white"))
    for left, top, colour in colours:
        image.paste(colour, (left, top, left + width // 2, top + height // 2))
    return image


_STORED: dict[int, Callable[[Image.Image], Image.Image]] = {
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF", "JPEG", "AVIF"])
def test_images_are_turned_upright(orientation: int, format_: str) -> None:
    """Every EXIF orientation in every format that knows it shows the same picture."""
    upright = _quarters()
    options: dict[str, object] = {"exif": oriented(orientation)}
    options |= {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}.get(format_, {})
    decoded = decode_image(encoded(_STORED[orientation](upright), format_, **options))
    assert upright.size == (decoded.width, decoded.height) == decoded.image.size
    assert np.abs(np.asarray(decoded.image).astype(int) - np.asarray(upright))[4:12, 4:20].max() <= 8
    assert np.abs(np.asarray(decoded.image).astype(int) - np.asarray(upright))[20:28, 28:44].max() <= 8


@pytest.mark.parametrize(
    "block", [None, "text", b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", oriented(9), oriented(0), b"MM\0*" * 9]
)
def test_broken_exif_counts_as_upright(block: object) -> None:
    """Whatever is not a readable orientation is none."""
    assert read_orientation(block) == 1


def test_orientation_behind_the_pixels_of_a_png() -> None:
    """PNG lets EXIF follow the image data."""
    data = encoded(_quarters(), "PNG")
    exif = chunk(b"eXIf", oriented(6).removeprefix(b"Exif\0\0"))
    assert (32, 48) == decode_image(data[:-12] + exif + data[-12:]).image.size


# ── draft and prepare ────────────────────────────────────────────────────────────────────────────────────────────────


def _slopes(width: int, height: int) -> Image.Image:
    """Return an image whose red grows to the right and whose green grows downwards, fast enough to see a shift."""
    x = np.broadcast_to(128 + 100 * np.sin(np.arange(width) / width * 12), (height, width))
    y = np.broadcast_to((128 + 100 * np.sin(np.arange(height) / height * 12))[:, None], (height, width))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 90)], axis=2).astype(np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_draft_keeps_the_geometry(orientation: int) -> None:
    """A JPEG decoded at a fraction of its odd size gives the input of the full one, however it is turned."""
    resize = Resize(size=64, crop=56)
    image = _slopes(1021, 779)
    data = encoded(_STORED[orientation](image), "JPEG", quality=98, subsampling=0, exif=oriented(orientation))
    full, part = decode_image(data), decode_image(data, min_side=resize.size)
    assert (1, 4) == (full.scale, part.scale)
    assert (1021, 779) == (part.width, part.height)
    difference = prepare(full, resize).astype(int) - prepare(part, resize)
    assert abs(difference.mean()) < 0.2
    assert np.abs(difference).max() <= 3


def test_draft_leaves_twice_the_side() -> None:
    """The shorter side keeps at least twice the pixels asked for."""
    data = encoded(_slopes(1600, 900), "JPEG")
    assert [1, 1, 2, 8] == [decode_image(data, min_side=side).scale for side in (900, 451, 225, 50)]


def test_prepare_of_a_narrow_strip() -> None:
    """A strip of extreme proportions needs no scaled copy of itself."""
    for size in ((1, 20000), (20000, 1), (1, 1), (2, 3)):
        square = prepare(DecodedImage(Image.new("RGB", size, "red"), *size, "PNG"), Resize(size=256, crop=224))
        assert (224, 224, 3) == square.shape
        assert [[255, 0, 0]] == np.unique(square.reshape(-1, 3), axis=0).tolist()


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_empty_input() -> None:
    """Zero bytes are no image."""
    with pytest.raises(EmptyInput):
        decode_image(b"")


@pytest.mark.parametrize(
    "data", [b"%PDF-1.7", b"hello", b"\0", b"<svg>", b"RIFF\0\0\0\0WAVE", b"\0\0\0\x18ftypmp42" * 4]
)
def test_other_files_are_unsupported(data: bytes) -> None:
    """What is no image of the allow-list is refused by its first bytes."""
    with pytest.raises(UnsupportedImageType):
        decode_image(data)


def test_formats_can_be_switched_off() -> None:
    """The allow-list is a setting."""
    limits = ImageLimits.from_settings(Settings(formats="JPEG,PNG"))
    with pytest.raises(UnsupportedImageType, match="GIF is switched off"):
        decode_image(encoded(Image.new("L", (1, 1)), "GIF"), limits)


def test_heic_without_its_extra_says_so() -> None:
    """Without pillow-heif a HEIC gets the type error that names the extra; in a fresh interpreter that has none."""
    script = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from service.image import decode_image\n"
        "try: decode_image(b'\\0\\0\\0\\x1cftypheic\\0\\0\\0\\0mif1heic' + b'\\0' * 99)\n"
        "except Exception as error: print(error.status, error.detail)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("415 ")
    assert "`heif` extra" in done.stdout


def test_sniffing_tells_avif_from_heic() -> None:
    """Both are the same container; the brands decide."""
    avif = encoded(Image.new("RGB", (8, 8)), "AVIF")
    assert sniff(avif) == "AVIF"
    assert sniff(avif.replace(b"avif", b"heic").replace(b"avis", b"heic")) == "HEIC"
    assert sniff(b"\0\0\0\x14ftypmif1\0\0\0\0avif") == "AVIF"


def test_every_format_has_a_way_in() -> None:
    """The allow-list of the settings and the decoder's are the same."""
    assert frozenset(FORMATS) == ImageLimits.from_settings(Settings()).formats


def test_too_many_pixels_by_the_header() -> None:
    """Pixels are counted before any is decoded, and the message says how many."""
    data = encoded(Image.new("1", (300, 200)), "PNG")
    with pytest.raises(TooManyPixels, match="300×200"):
        decode_image(data, ImageLimits(max_pixels=59_999))


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_truncated_files_are_refused(format_: str, share: float) -> None:
    """Half an image is never classified."""
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, format_)
    with pytest.raises(UndecodableImage):
        decode_image(data[: int(len(data) * share)])


def test_error_text_holds_nothing_of_the_library() -> None:
    """The client reads our words, not Pillow's."""
    with pytest.raises(UndecodableImage) as caught:
        decode_image(b"\x89PNG\r\n\x1a\n" + b"\xff" * 60)
    assert caught.value.detail == "The PNG image is broken, truncated or of an unknown kind."


# ── memory and time ──────────────────────────────────────────────────────────────────────────────────────────────────


def _overlapping_tags(count: int, size: int) -> bytes:
    """Return a TIFF whose tags all claim the same bytes."""
    tags = [(256, 4, 1, long(8)), (257, 4, 1, long(8))]
    tags += [(1000 + i, 7, size, long(8 + 2 + (count + 2) * 12)) for i in range(count)]
    return tiff(tags, b"\0" * size)


def _many_scans(side: int, scans: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated."""
    data = encoded(Image.new("L", (side, side)), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + data[-2:]


def _flat(mode: str, format_: str, side: int, **options: object) -> bytes:
    return encoded(Image.new(mode, (side, side)), format_, **options)


def _bombs() -> dict[str, bytes]:
    """Return small files that ask for much memory or time."""
    exif = b"Exif\0\0" + _overlapping_tags(2000, 30_000)
    text = b"".join(chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 1_000_000)) for _ in range(80))
    webp = bytearray(_flat("RGBA", "WEBP", 16, exif=b"x"))
    webp[24:30] = b"\xfe\x3f\0\xfe\x3f\0"
    return {
        "png within the limit": _flat("RGB", "PNG", 2800),
        "png beyond": _flat("RGB", "PNG", 7000),
        "png with alpha": _flat("RGBA", "PNG", 2800),
        "png of 16 bits": _flat("I;16", "PNG", 3600),
        "png text": png(1, 1, 8, 0, b"\0\0", text),
        "png profile": png(1, 1, 8, 0, b"\0\0", chunk(b"iCCP", b"k\0\0" + zlib.compress(b"\0" * 50_000_000))),
        "png dimensions": png(2**31 - 1, 2**31 - 1, 8, 2, b"\0"),
        "gif screen": b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0" + b"," + b"\0" * 20,
        "gif frame": b"GIF89a\1\0\1\0\0\0\0!\xf9\4\x08\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\0",
        "webp canvas": bytes(webp),
        "webp flat": _flat("RGB", "WEBP", 2200, lossless=True),
        "avif flat": _flat("RGB", "AVIF", 2600, speed=10),
        "bmp header": b"BM" + struct.pack("<LLLLllHHLLllLL", 90, 0, 54, 40, 4500, 4500, 1, 24, 0, 0, 0, 0, 0, 0),
        "tiff tags": _overlapping_tags(4000, 300_000),
        "tiff strips": tiff([(256, 4, 1, long(8)), (257, 4, 1, long(8)), (273, 4, 10**6, long(50))], b"\0" * 4 * 10**6),
        "tiff tile": tiff([(322, 4, 1, long(60_000)), (323, 4, 1, long(60_000))]),
        "tiff flat": _flat("RGB", "TIFF", 2800, compression="tiff_adobe_deflate"),
        "tiff floats": _flat("F", "TIFF", 2600, compression="tiff_adobe_deflate"),
        "jpeg exif": encoded(Image.new("RGB", (8, 8)), "JPEG", exif=exif[:65_500]),
        "jpeg progressive": _flat("RGB", "JPEG", 3500, progressive=True, subsampling=0),
        "jpeg progressive beyond": _flat("CMYK", "JPEG", 6500, progressive=True),
        "jpeg scans": _many_scans(2000, 2000),
        "jpeg baseline": _flat("RGB", "JPEG", 7000),
    }


_MEASURE = """
import sys, time
from pathlib import Path
from service.errors import FieldmarkError
from service.image import decode_image

def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

decode_image(Path(sys.argv[1]).read_bytes())
for path in sys.argv[2:]:
    data = Path(path).read_bytes()
    for min_side in (None, 256):
        Path("/proc/self/clear_refs").write_text("5")
        before, start = resident("VmRSS"), time.process_time()
        try:
            image = decode_image(data, min_side=min_side).image
        except FieldmarkError as error:
            image = None
        print(path, resident("VmHWM") - before, time.process_time() - start, sep="\\t")
        del image
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_bombs_stay_within_their_memory(tmp_path: Path) -> None:
    """No small file makes the decoder take 100 MB, whatever it claims, nor work for long."""
    first = tmp_path / "first.jpg"
    first.write_bytes(encoded(_slopes(64, 64), "JPEG"))
    paths = []
    for i, (name, data) in enumerate(_bombs().items()):
        paths.append(tmp_path / f"{i:02} {name}")
        paths[-1].write_bytes(data)
        assert len(data) < 5_000_000
    command = [sys.executable, "-c", _MEASURE, str(first), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(measured) == 2 * len(paths)
    assert [] == [(Path(path).name, peak) for path, peak, _ in measured if int(peak) > 100_000_000]
    # Processor time, not the clock's: a bound on the work, with room for a slow machine.
    assert [] == [(Path(path).name, spent) for path, _, spent in measured if float(spent) > 10]


def test_run_length_coded_bmp_is_bounded() -> None:
    """Pillow expands these in Python, so their length is limited."""
    head = b"BM" + struct.pack("<LLLLllHHLLllLL", 0, 0, 1078, 40, 4000, 4000, 1, 8, 1, 0, 0, 0, 256, 0)
    with pytest.raises(UndecodableImage, match="run-length"):
        decode_image(head + b"\0" * 1024 + b"\1\0" * (5 * 1024 * 1024))


def test_large_photos_may_take_more() -> None:
    """A file large enough to be a real photo may be decoded beyond the share of any file; up to the limit."""
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (500, 500, 3), dtype=np.uint8))
    data = encoded(noise.resize((4600, 4600), Image.Resampling.NEAREST), "PNG")
    assert (4600, 4600) == decode_image(data).image.size
    with pytest.raises(TooManyPixels, match="MiB"):
        decode_image(data, ImageLimits(max_decode_bytes=100 * 1024 * 1024))


def test_threads_share_the_budget() -> None:
    """Large images of several threads wait for each other and all are decoded."""
    data = _flat("RGB", "PNG", 2800)
    sizes: list[tuple[int, int]] = []
    threads = [threading.Thread(target=lambda: sizes.append(decode_image(data).image.size)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(2800, 2800)] * 4 == sizes


def test_decoding_is_repeatable() -> None:
    """The same bytes give the same pixels, after an error too."""
    data = encoded(_slopes(100, 80), "WEBP")
    first = pixels(data)
    with pytest.raises(FieldmarkError):
        decode_image(data[:50])
    assert np.array_equal(first, pixels(data))
