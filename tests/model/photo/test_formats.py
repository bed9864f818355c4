"""The first bytes decide what a file is, and whether it is decoded."""

import subprocess
import sys

import pytest
from PIL import Image

from model.photo.decode import decode_image
from model.photo.errors import UnsupportedFormat
from model.photo.formats import sniff
from model.photo.limits import FORMATS, ImageLimits
from tests.model.photo.files import encoded, pixels, slopes, tiff


@pytest.mark.parametrize(
    "data", [b"%PDF-1.7", b"hello", b"\0", b"<svg>", b"RIFF\0\0\0\0WAVE", b"\0\0\0\x18ftypmp42" * 4]
)
def test_other_files_are_unsupported(data: bytes) -> None:
    """A file that is not in the allow-list is refused by its first bytes."""
    with pytest.raises(UnsupportedFormat):
        decode_image(data)


def test_formats_can_be_switched_off() -> None:
    """The allow-list is a setting."""
    limits = ImageLimits(formats=frozenset({"JPEG", "PNG"}))
    with pytest.raises(UnsupportedFormat, match="GIF is switched off"):
        decode_image(encoded(Image.new("L", (1, 1)), "GIF"), limits)


def test_heic_without_its_extra_says_so() -> None:
    """Without pillow-heif a HEIC gets the type error that names the extra; in a fresh interpreter that has none."""
    script = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from model.photo.decode import decode_image\n"
        "try: decode_image(b'\\0\\0\\0\\x1cftypheic\\0\\0\\0\\0mif1heic' + b'\\0' * 99)\n"
        "except Exception as error: print(type(error).__name__, error.detail)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("UnsupportedFormat ")
    assert "`heif` extra" in done.stdout


def test_sniffing_tells_avif_from_heic() -> None:
    """Both are the same container; the brands decide."""
    avif = encoded(Image.new("RGB", (8, 8)), "AVIF")
    assert sniff(avif) == "AVIF"
    assert sniff(avif.replace(b"avif", b"heic").replace(b"avis", b"heic")) == "HEIC"
    assert sniff(b"\0\0\0\x14ftypmif1\0\0\0\0avif") == "AVIF"


def test_every_format_has_a_way_in() -> None:
    """The allow-list of the settings and the decoder's are the same."""
    assert frozenset(FORMATS) == ImageLimits().formats


def segment(marker: int, body: bytes) -> bytes:
    """Return one segment of a JPEG."""
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


@pytest.mark.parametrize(
    "segments",
    [
        segment(0xE0, b"JFIF\0"),
        segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4"),
        segment(0xEE, b"Adobe"),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"x" * 60_000) * 60,
        segment(0xED, b"Photoshop 3.0\0" + b"8BIM" + b"x" * 60_000) * 60,
        segment(0xE1, b"Exif\0\0" + b"x" * 60_000) * 20,
        segment(0xFE, b"a comment" * 5000) * 40,
        segment(0xE5, b""),
    ],
    ids=["jfif", "photoshop", "adobe", "profile", "xmp", "resources", "exif", "comments", "empty"],
)
def test_metadata_stops_no_jpeg(segments: bytes) -> None:
    """Cut and long segments beside the pixels leave them as they are."""
    plain = encoded(slopes(40, 30), "JPEG")
    assert pixels(plain).tolist() == pixels(plain[:2] + segments + plain[2:]).tolist()


@pytest.mark.parametrize(
    "exif", [b"II*\0" * 40, b"x", tiff([(1000, 7, 2**31, b"1234")]), b"MM\0*\0\0\0\xff"], ids=range(4)
)
def test_metadata_stops_no_avif(exif: bytes) -> None:
    """A broken EXIF block, or bytes that look like many, leave the picture as it is."""
    block = Image.Exif()
    block[0x0131], block[0x0112] = "x" * 300, 6
    found = encoded(slopes(40, 30), "AVIF", exif=block.tobytes())
    at = max(found.find(b"II*\0"), found.find(b"MM\0*"))
    assert at > 0
    assert (30, 40) == decode_image(found).image.size
    broken = found[:at] + exif + found[at + len(exif) :]
    assert pixels(found).tolist() == pixels(broken).tolist()
    with_xmp = encoded(slopes(40, 30), "AVIF", xmp=exif * 9)
    assert pixels(encoded(slopes(40, 30), "AVIF")).tolist() == pixels(with_xmp).tolist()
