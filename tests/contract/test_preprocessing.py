"""The network's input is what torchvision would make of the same photo."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.contract.geometry import Resize
from model.photo.decode import DecodedImage, decode_image, prepare

RESIZES = [
    Resize(size=256, crop=224),
    Resize(size=257, crop=224),
    Resize(size=320, crop=320),
    Resize(mode="stretch", size=256, crop=224),
]


@pytest.fixture(scope="module")
def photos(bird_photos: list[Path]) -> list[Path]:
    """Return a spread of photos."""
    return bird_photos[:: len(bird_photos) // 24]


@pytest.mark.parametrize("resize", RESIZES, ids=str)
def test_service_equals_torchvision(photos: list[Path], resize: Resize) -> None:
    """One resize of a box equals torchvision's resize and centre crop to the last bit of rounding."""
    functional = pytest.importorskip("torchvision.transforms.functional")
    side = [resize.size, resize.size] if resize.mode == "stretch" else [resize.size]
    for path in photos:
        decoded = decode_image(path.read_bytes())
        scaled = functional.resize(decoded.image, side)
        expected = np.asarray(functional.center_crop(scaled, [resize.crop, resize.crop])).astype(int)
        # Two passes, each rounded: where a value is exactly one half, the last bit of the box decides.
        assert np.abs(prepare(decoded, resize) - expected).max() <= 2, path.name


@pytest.mark.parametrize("size", [(300, 200), (201, 333), (224, 224), (60, 45), (1000, 20)])
def test_any_proportions_equal_torchvision(size: tuple[int, int]) -> None:
    """Odd sides, small images and narrow strips have the same geometry too."""
    functional = pytest.importorskip("torchvision.transforms.functional")
    resize = Resize(size=256, crop=224)
    noise = np.random.default_rng(7).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    expected = functional.center_crop(functional.resize(image, [resize.size]), [resize.crop, resize.crop])
    found = prepare(DecodedImage(image, *size, "PNG"), resize)
    assert np.abs(found - np.asarray(expected).astype(int)).max() <= 1
