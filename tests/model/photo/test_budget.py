"""No file takes more memory or time than it is given."""

import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.photo.decode import decode_image
from model.photo.errors import TooManyPixels
from model.photo.limits import ImageLimits
from tests.model.photo.files import (
    animated,
    chunk,
    encoded,
    flat,
    long,
    png,
    slopes,
    tiff,
)


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


def _bombs() -> dict[str, bytes]:
    """Return small files that ask for much memory or time."""
    exif = b"Exif\0\0" + _overlapping_tags(2000, 30_000)
    text = b"".join(chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 1_000_000)) for _ in range(80))
    webp = bytearray(flat("RGBA", "WEBP", 16, exif=b"x"))
    webp[24:30] = b"\xfe\x3f\0\xfe\x3f\0"
    return {
        "png within the limit": flat("RGB", "PNG", 2800),
        "png beyond": flat("RGB", "PNG", 7000),
        "png with alpha": flat("RGBA", "PNG", 2800),
        "png of 16 bits": flat("I;16", "PNG", 3600),
        "png text": png(1, 1, 8, 0, b"\0\0", text),
        "png profile": png(1, 1, 8, 0, b"\0\0", chunk(b"iCCP", b"k\0\0" + zlib.compress(b"\0" * 50_000_000))),
        "png long text": png(1, 1, 8, 0, b"\0\0", chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 90_000_000, 9))),
        "png many chunks": png(1, 1, 8, 0, b"\0\0", chunk(b"tEXt", b"") * 190_000),
        "apng canvas": animated(Image.new("1", (7000, 7000)), Image.new("1", (1, 1)), cut=1),
        "png dimensions": png(2**31 - 1, 2**31 - 1, 8, 2, b"\0"),
        "gif screen": b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0" + b"," + b"\0" * 20,
        "gif frame": b"GIF89a\1\0\1\0\0\0\0!\xf9\4\x08\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\0",
        "webp canvas": bytes(webp),
        "webp flat": flat("RGB", "WEBP", 2200, lossless=True),
        "avif flat": flat("RGB", "AVIF", 2600, speed=10),
        "bmp header": b"BM" + struct.pack("<LLLLllHHLLllLL", 90, 0, 54, 40, 4500, 4500, 1, 24, 0, 0, 0, 0, 0, 0),
        "tiff tags": _overlapping_tags(4000, 300_000),
        "tiff strips": tiff([(256, 4, 1, long(8)), (257, 4, 1, long(8)), (273, 4, 10**6, long(50))], b"\0" * 4 * 10**6),
        "tiff tile": tiff([(322, 4, 1, long(60_000)), (323, 4, 1, long(60_000))]),
        "tiff flat": flat("RGB", "TIFF", 2800, compression="tiff_adobe_deflate"),
        "tiff floats": flat("F", "TIFF", 2600, compression="tiff_adobe_deflate"),
        "jpeg exif": encoded(Image.new("RGB", (8, 8)), "JPEG", exif=exif[:65_500]),
        "jpeg progressive": flat("RGB", "JPEG", 3500, progressive=True, subsampling=0),
        "jpeg progressive beyond": flat("CMYK", "JPEG", 6500, progressive=True),
        "jpeg scans": _many_scans(2000, 2000),
        "jpeg baseline": flat("RGB", "JPEG", 7000),
    }


_MEASURE = """
import sys, time
from pathlib import Path
from model.photo.errors import PhotoError
from model.photo.budget import return_large_blocks
from model.photo.decode import decode_image

return_large_blocks()

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
        except PhotoError as error:
            image = None
        print(path, resident("VmHWM") - before, time.process_time() - start, sep="\\t")
        del image
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_bombs_stay_within_their_memory(tmp_path: Path) -> None:
    """No small file makes the decoder take 100 MB or work for long, whatever it claims."""
    first = tmp_path / "first.jpg"
    first.write_bytes(encoded(slopes(64, 64), "JPEG"))
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


def test_large_photos_may_take_more() -> None:
    """A file large enough to be a real photo may be decoded beyond the share of any file; up to the limit."""
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (500, 500, 3), dtype=np.uint8))
    data = encoded(noise.resize((4600, 4600), Image.Resampling.NEAREST), "PNG")
    assert (4600, 4600) == decode_image(data).image.size
    with pytest.raises(TooManyPixels, match="MiB"):
        decode_image(data, ImageLimits(max_decode_bytes=100 * 1024 * 1024))


def test_threads_share_the_budget() -> None:
    """Large images of several threads wait for each other and all are decoded."""
    data = flat("RGB", "PNG", 2800)
    sizes: list[tuple[int, int]] = []
    threads = [threading.Thread(target=lambda: sizes.append(decode_image(data).image.size)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(2800, 2800)] * 4 == sizes
