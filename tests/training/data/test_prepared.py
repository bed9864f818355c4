"""A few prepared photos: their choice, and their file in a run's folder."""

from pathlib import Path

import numpy as np

from training.data.prepared import NUM_PARITY_IMAGES, keep_parity_images, kept_parity_images, parity_images
from training.data.samples import Dataset
from training.recipe import Recipe


def test_parity_images_are_spread_over_the_samples(birds: Dataset, tiny: Recipe) -> None:
    """The first, and others at equal distances."""
    resize = tiny.data.resize
    images = parity_images(birds.train, resize, 0)
    assert images.shape == (NUM_PARITY_IMAGES, resize.crop, resize.crop, 3)
    assert np.array_equal(images[0], parity_images(birds.train[:1], resize, 0)[0])
    last = birds.train[(NUM_PARITY_IMAGES - 1) * len(birds.train) // NUM_PARITY_IMAGES]
    assert np.array_equal(images[-1], parity_images([last], resize, 0)[0])


def test_a_run_keeps_its_parity_images(birds: Dataset, tiny: Recipe, tmp_path: Path) -> None:
    """They are read as written; a folder without them has none."""
    assert kept_parity_images(tmp_path) is None
    keep_parity_images(tmp_path, birds.test, tiny.data.resize, 0)
    kept = kept_parity_images(tmp_path)
    assert kept is not None
    assert np.array_equal(kept, parity_images(birds.test, tiny.data.resize, 0))
    assert [path.name for path in tmp_path.iterdir()] == ["parity.npz"]
