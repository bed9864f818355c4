"""Figures of classification: against torchmetrics' values for the same input, and formulas written out."""

import json
from pathlib import Path

import numpy as np
import pytest

from model.contract.graph import softmax
from tests.training.evaluation.peers.make_reference import made_logits
from training.evaluation.classification import (
    adaptive_calibration_error,
    area_under_risk_coverage,
    class_rows,
    classification_figures,
    confused_pairs,
    confusion,
    macro_f1,
    reliability,
    risk_coverage,
)
from training.evaluation.scores import calibration_error

REFERENCE = json.loads((Path(__file__).parent / "peers" / "reference.json").read_text())


@pytest.fixture(scope="module")
def answers() -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and labels of 300 made photos, 7 classes."""
    logits, labels = made_logits()
    return softmax(logits), labels


@pytest.mark.parametrize("name", ["top1", "top5", "mean_per_class", "macro_f1", "ece"])
def test_torchmetrics_agrees(answers: tuple[np.ndarray, np.ndarray], name: str) -> None:
    """Accuracy, F1 and calibration error equal torchmetrics' on the same answers."""
    assert classification_figures(*answers)[name].value == pytest.approx(REFERENCE[name], abs=1e-6)


def test_every_figure_lies_in_its_interval(answers: tuple[np.ndarray, np.ndarray]) -> None:
    """Also errors of calibration, which photos drawn twice would push up."""
    for name, figure in classification_figures(*answers).items():
        assert figure.low < figure.value < figure.high, name
        assert figure.n == (300 if "surest" not in name else round(3 * int(name[-2:]))), name


def test_calibration_error_by_its_formula() -> None:
    """Two bins: 0.05 off on half of the photos, 0.25 off on the other half."""
    confidence = np.array([0.95, 0.95, 0.55, 0.55])
    right = np.array([True, True, True, False])
    assert calibration_error(confidence, right) == pytest.approx((0.05 + 0.05) / 2)
    assert calibration_error(confidence, ~right) == pytest.approx((0.95 + 0.05) / 2)


def test_adaptive_bins_hold_equally_many() -> None:
    """Thirty photos in fifteen bins of two: the mean of the pairs' gaps."""
    confidence = np.linspace(0.9, 0.95, 30)
    right = np.arange(30) % 4 != 0
    gaps = np.abs((confidence - right).reshape(15, 2).mean(axis=1))
    assert adaptive_calibration_error(confidence, right) == pytest.approx(gaps.mean())
    assert adaptive_calibration_error(confidence[::-1], right[::-1]) == pytest.approx(gaps.mean())


def test_risk_and_coverage_by_their_formula() -> None:
    """Surest first: right, wrong, right → error rates 0, 1/2, 1/3."""
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]])
    labels = np.array([0, 0, 0])
    assert [0, 1 / 2, 1 / 3] == risk_coverage(
        probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    ).tolist()
    found = area_under_risk_coverage(np.array([0.6, 0.9, 0.8]), np.array([True, True, False]))
    assert found == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)


def test_surest_photos_are_classified_better(answers: tuple[np.ndarray, np.ndarray]) -> None:
    """A confidence that says something gives a higher accuracy to the surest half."""
    figures = classification_figures(*answers)
    assert figures["top1_of_surest_50"].value > figures["top1"].value
    assert figures["aurc"].value < 1 - figures["top1"].value


def test_confusion_and_its_pairs() -> None:
    """Rows are the truth; pairs come most photos first, with the number of photos of the true class."""
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0, 2])
    assert [[1, 2, 0], [1, 1, 0], [0, 0, 1]] == confusion(predicted, labels, 3).tolist()
    pairs = confused_pairs(predicted, labels, ["crow", "raven", "gull"])
    assert [("crow", "raven", 2, 3), ("raven", "crow", 1, 2)] == [
        (pair.label, pair.taken_for, pair.count, pair.photos) for pair in pairs
    ]


def test_class_table() -> None:
    """Recall, precision and F1 of each class that has photos; one that is never named has no precision."""
    labels, predicted = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 2, 0, 0])
    crow, raven = class_rows(predicted, labels, ["crow", "raven", "gull"])
    assert ("crow", 2 / 3, 3, 2 / 4) == (crow.label, crow.recall.value, crow.recall.n, crow.precision.value)
    assert crow.f1 == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    assert (0, 0, 0.0) == (raven.recall.value, raven.precision.n, raven.f1)
    assert macro_f1(predicted, labels) == pytest.approx((crow.f1 + 0 + 0) / 3)


def test_reliability_counts_every_photo(answers: tuple[np.ndarray, np.ndarray]) -> None:
    """The bars hold all photos, from unsure to sure."""
    bars = reliability(*answers)
    assert sum(bar.accuracy.n for bar in bars) == 300
    assert [bar.confidence for bar in bars] == sorted(bar.confidence for bar in bars)


def test_perfect_and_hopeless_networks() -> None:
    """All right: no error, no pairs; all wrong: accuracy 0, and nothing divides by zero."""
    sure = np.eye(3)[[0, 1, 2]] * 0.97 + 0.01
    right, wrong = (classification_figures(sure, np.array(labels)) for labels in ([0, 1, 2], [1, 2, 0]))
    assert (1, 1, 0) == (right["top1"].value, right["macro_f1"].value, right["aurc"].value)
    assert (0, 0, 1) == (wrong["top1"].value, wrong["macro_f1"].value, wrong["aurc"].value)
    assert confused_pairs(np.arange(3), np.arange(3), "abc") == []
