"""How dependent several photos are: fitted to groups of photos that one network answered."""

from pathlib import Path

import numpy as np
import pytest

from training.calibration.individual import fit_individual, individual_of
from training.calibration.outputs import HELD_OUT, Outputs


def outputs(shared: float, *, classes: int = 40, photos: int = 12, folds: int = 2, seed: int = 0) -> Outputs:
    """Return answers whose errors are shared by the photos of a class and fold to this share of their variance."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), photos)
    fold = np.tile(np.arange(photos) % folds + 1, classes)
    of_class = generator.normal(size=(folds + 1, classes, classes))[fold, labels]
    noise = np.sqrt(shared) * of_class + np.sqrt(1 - shared) * generator.normal(size=of_class.shape)
    # Normal around 2 for the photo's own class with variance 2: such an answer is the logarithm of the likelihood.
    logits = 2 * np.eye(classes)[labels] + np.sqrt(2) * noise
    empty = np.zeros((len(labels), 0), np.float32)
    return Outputs(logits, empty, empty, labels, fold, *[np.array([""] * len(labels))] * 2)


@pytest.mark.parametrize(("shared", "low", "high"), [(0.0, 0.0, 0.05), (0.5, 0.4, 0.7), (1.0, 0.9, 1.0)])
def test_dependence_is_found(shared: float, low: float, high: float) -> None:
    """Photos that err apart multiply, photos that err together count as one."""
    found = fit_individual(outputs(shared), 1.0)
    assert found is not None
    assert low <= found.dependence <= high
    assert 480 == found.num_photos


def test_networks_are_not_mixed() -> None:
    """Each fold's photos are grouped by themselves, whatever the order of the photos."""
    held = outputs(1.0, folds=3)
    found = fit_individual(held, 1.0)
    assert found is not None
    assert found.dependence > 0.9


def test_too_few_photos(tmp_path: Path) -> None:
    """Nothing is fitted, and the service takes the cautious rule."""
    assert fit_individual(outputs(0.0, classes=4, photos=6), 1.0) is None
    assert individual_of(tmp_path, 1.0) is None


def test_a_run_is_read(tmp_path: Path) -> None:
    """From the answers that it kept."""
    held = outputs(0.5)
    held.write(tmp_path / HELD_OUT)
    assert fit_individual(held, 1.0) == individual_of(tmp_path, 1.0)
