"""Figures computed from logits alone."""

import numpy as np
import pytest

from training.evaluation.scores import (
    accuracy_figures,
    expected_calibration_error,
    fit_temperature,
    mean_recall,
    top_k_accuracy,
)

LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [1.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
LABELS = np.array([0, 1, 1, 2])


def test_accuracy_counts_every_image() -> None:
    """Top-1 over images, mean over classes, and top-k."""
    assert top_k_accuracy(LOGITS, LABELS, 1) == 0.5
    assert top_k_accuracy(LOGITS, LABELS, 2) == 0.75
    assert top_k_accuracy(LOGITS, LABELS, 3) == 1.0
    assert mean_recall(LOGITS.argmax(axis=1), LABELS) == pytest.approx((1 + 0.5 + 0) / 3)


def test_the_temperature_undoes_overconfidence() -> None:
    """Logits that were multiplied by 3 get a temperature of 3, and calibration improves."""
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 1.5, (4000, 5))
    shares = np.exp(honest) / np.exp(honest).sum(1, keepdims=True)
    labels = np.array([rng.choice(5, p=row) for row in shares])
    temperature = fit_temperature(3 * honest, labels)
    assert temperature == pytest.approx(3, rel=0.1)
    assert expected_calibration_error(3 * honest, labels, temperature) < 0.03
    assert expected_calibration_error(3 * honest, labels) > 0.1
    assert fit_temperature(np.zeros((0, 5)), np.zeros(0, int)) == 1.0


def test_the_keys_of_the_figures_are_promised() -> None:
    """Programs read these names."""
    figures = accuracy_figures(LOGITS, LABELS, 1.0)
    assert {"top1", "top5", "mean_per_class", "ece", "ece_uncalibrated"} <= set(figures)
