"""Probabilities of marks: they follow the shares of observers, and stay as they are where nothing is known."""

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from model.explain.marks import MarkCalibration
from training.calibration.marks import LEAST, calibrate_marks


def squared_error(logits: np.ndarray, shares: np.ndarray, calibration: MarkCalibration | None = None) -> float:
    """Return Brier's score against the shares, less the spread of observers, which no probability can avoid."""
    seen = logits if calibration is None else logits * calibration.scale.numpy() + calibration.shift.numpy()
    return float(np.nanmean((expit(seen) - shares) ** 2))


@pytest.fixture
def made() -> tuple[np.ndarray, np.ndarray]:
    """Return logits and shares of 5 marks for 600 photos; each mark's logits are off by its own scale and shift."""
    rng = np.random.default_rng(0)
    table = np.clip(rng.beta(0.5, 1, (12, 5)), 0.02, 0.98)
    shares = table[rng.integers(12, size=600)]
    noisy = logit(shares) + rng.normal(0, 0.3, shares.shape)
    return (noisy - [0, 1, -1, 2, 0]) * [1, 2, 4, 3, 0.5], shares


def test_probabilities_follow_the_shares(made: tuple[np.ndarray, np.ndarray]) -> None:
    """On photos that were not fitted to, the error falls, and scale and shift of each mark are found."""
    logits, shares = made
    calibration = calibrate_marks(logits[:400], shares[:400])
    held = logits[400:], shares[400:]
    assert squared_error(*held, calibration) < 0.2 * squared_error(*held)
    np.testing.assert_allclose(calibration.scale, [1, 1 / 2, 1 / 4, 1 / 3, 2], rtol=0.2)
    np.testing.assert_allclose(calibration.shift, [0, 1, -1, 2, 0], atol=0.3)
    seen = expit(held[0] * calibration.scale.numpy() + calibration.shift.numpy())
    np.testing.assert_allclose(seen.mean(axis=0), held[1].mean(axis=0), atol=0.03)


def test_an_unknown_share_changes_nothing(made: tuple[np.ndarray, np.ndarray]) -> None:
    """A mark is fitted to the photos whose class it is known of; one that is known of none is left as it is."""
    logits, shares = made
    some = shares.copy()
    some[100:, 1], some[:, 2] = np.nan, np.nan
    calibration = calibrate_marks(logits, some)
    alone = calibrate_marks(logits[:100, 1:2], shares[:100, 1:2])
    assert float(calibration.scale[1]) == pytest.approx(float(alone.scale[0]), abs=1e-3)
    assert (1, 0) == (float(calibration.scale[2]), float(calibration.shift[2]))


def test_few_photos_move_a_mark_little(made: tuple[np.ndarray, np.ndarray]) -> None:
    """Two photos are no reason to distrust a logit."""
    logits, shares = made
    few = calibrate_marks(logits[:2] / 4, shares[:2])
    assert (few.scale - 1).abs().max() < 0.5
    assert few.shift.abs().max() < 0.5


def test_a_logit_that_says_nothing_keeps_its_sign() -> None:
    """Turned around, a mark's map would point at what speaks against it."""
    rng = np.random.default_rng(0)
    shares = rng.random((500, 1))
    calibration = calibrate_marks(-3 * logit(shares), shares)
    assert torch.equal(torch.tensor([LEAST]), calibration.scale)
