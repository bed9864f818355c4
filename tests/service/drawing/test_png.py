"""The PNG writer against Pillow's: the same pixels, in files of about the same size."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.drawing import png
from service.drawing.maps import Placement, heatmap, scale_map
from service.drawing.overlay import overlay
from service.drawing.png import write_png
from tests.service.drawing.conftest import RESIZE

RANDOM = np.random.default_rng(7)
MOST_GROWTH = 1.25


def opened(data: bytes) -> Image.Image:
    """Return the picture of a file, all of it read."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def by_pillow(image: Image.Image) -> bytes:
    """Return the file that Pillow's encoder writes."""
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def test_real_photos_are_written_as_pillow_writes_them(bird_photos: list[Path]) -> None:
    """Overlays and heatmaps of real photos: equal pixels, mode and transparent colour; at most a quarter more bytes."""
    sizes = np.zeros((2, 2))
    for path in bird_photos[::150]:
        photo = Image.open(path).convert("RGB")
        scaled, placement = scale_map(RANDOM.random((7, 7)) ** 3), Placement.on(RESIZE, *photo.size)
        for kind, image in enumerate((overlay(photo, scaled, placement), heatmap(scaled, placement))):
            data, expected = write_png(image), by_pillow(image)
            shown, wanted = opened(data), opened(expected)
            assert (wanted.mode, wanted.size, wanted.info) == (shown.mode, shown.size, shown.info)
            assert wanted.convert("RGBA").tobytes() == shown.convert("RGBA").tobytes()
            sizes[kind] += len(data), len(expected)
    assert (sizes[:, 0] <= MOST_GROWTH * sizes[:, 1]).all()


@pytest.mark.parametrize("mode", ["RGB", "P"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (257, 131)])
def test_strips_do_not_show(monkeypatch: pytest.MonkeyPatch, mode: str, size: tuple[int, int]) -> None:
    """Rows continue across strips, a row longer than a strip included."""
    monkeypatch.setattr(png, "STRIP_BYTES", 500)
    noise = Image.fromarray(RANDOM.integers(0, 256, (size[1], size[0], 3), np.uint8))
    image = noise if mode == "RGB" else noise.convert("P", palette=Image.Palette.ADAPTIVE)
    shown = opened(write_png(image))
    assert (mode, size) == (shown.mode, shown.size)
    assert image.convert("RGB").tobytes() == shown.convert("RGB").tobytes()
