"""Whatever the bytes, the decoder returns an image or one of our errors."""

import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from model.photo.decode import decode_image
from model.photo.errors import PhotoError
from model.photo.formats import sniff
from model.photo.limits import ImageLimits

# Small, because a mutated header that claims a large image is allowed to be decoded as one.
LIMITS = ImageLimits(max_pixels=200_000)
CASES = settings(
    max_examples=1500,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def _made() -> list[bytes]:
    """Return a small image in every format that Pillow writes."""
    seeds = []
    for mode in ("RGB", "RGBA", "L", "P", "1", "LA", "CMYK", "I;16", "F"):
        image = Image.linear_gradient("L").resize((24, 20)).convert("L" if mode in ("I;16", "F") else mode)
        image = image.convert(mode) if mode != image.mode else image
        for format_ in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
            stream = io.BytesIO()
            exif = Image.Exif()
            exif[0x0112] = 6
            try:
                image.save(stream, format_, exif=exif)
            except (OSError, ValueError, SystemError):
                continue
            seeds.append(stream.getvalue())
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"):
        stream = io.BytesIO()
        image = Image.linear_gradient("L").resize((24, 20))
        image.convert("1" if compression == "group4" else "RGB").save(stream, "TIFF", compression=compression)
        seeds.append(stream.getvalue())
    return seeds


@pytest.fixture(scope="module")
def seeds(request: pytest.FixtureRequest) -> list[bytes]:
    """Return small images: generated ones, and the real odd ones where they are available."""
    found = _made()
    try:
        folder: Path = request.getfixturevalue("data_dir")
    except pytest.skip.Exception:
        return found
    real = [path.read_bytes() for path in sorted((folder / "awkward").iterdir()) if path.stat().st_size < 12_000]
    return found + [data for data in real if sniff(data)]


def decodes_or_refuses(data: bytes) -> None:
    """Decode; anything but an image or one of our errors fails the test."""
    try:
        decoded = decode_image(data, LIMITS, min_side=32)
    except PhotoError:
        return
    assert decoded.image.mode == "RGB"
    assert decoded.width * decoded.height <= LIMITS.max_pixels


@CASES
@given(st.data())
def test_changed_bytes(seeds: list[bytes], data: st.DataObject) -> None:
    """A real file with some bytes changed."""
    seed = bytearray(data.draw(st.sampled_from(seeds)))
    # Half of the changes go to the header, where they do most harm.
    place = st.one_of(st.integers(0, min(len(seed), 200) - 1), st.integers(0, len(seed) - 1))
    for at, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=8)):
        seed[at] = value
    decodes_or_refuses(bytes(seed))


@CASES
@given(st.data())
def test_large_numbers(seeds: list[bytes], data: st.DataObject) -> None:
    """A real file with an extreme number written over some field, as lengths, offsets and sizes are."""
    seed = bytearray(data.draw(st.sampled_from(seeds)))
    number = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
    size = data.draw(st.sampled_from([1, 2, 4, 8]))
    order = data.draw(st.sampled_from(["little", "big"]))
    at = data.draw(st.integers(0, min(len(seed), 400) - 1))
    seed[at : at + size] = (number & (256**size - 1)).to_bytes(size, order)
    decodes_or_refuses(bytes(seed))


@CASES
@given(st.data())
def test_cut_and_joined(seeds: list[bytes], data: st.DataObject) -> None:
    """Pieces of two real files, cut, doubled and joined."""
    one, other = data.draw(st.sampled_from(seeds)), data.draw(st.sampled_from(seeds))
    first, second = data.draw(st.integers(0, len(one))), data.draw(st.integers(0, len(other)))
    decodes_or_refuses(one[:first] + other[second:])


@CASES
@given(
    st.sampled_from(
        [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"RIFF\0\0\0\0WEBPVP8 "]
    ),
    st.binary(max_size=300),
)
def test_random_bytes_behind_a_signature(magic: bytes, rest: bytes) -> None:
    """Noise behind the signature of an image."""
    decodes_or_refuses(magic + rest)
