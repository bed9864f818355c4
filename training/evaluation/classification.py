"""How well the class is named, and how well the network knows it: every figure with its interval, and the tables.

Source: Guo et al. 2017, arXiv:1706.04599 (calibration error); Nixon et al. 2019, arXiv:1904.01685 (adaptive bins);
Geifman & El-Yaniv 2017, arXiv:1705.08500 (risk–coverage), and 2019, arXiv:1805.08206 (its area).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.evaluation.figures import Figure, mean, share, statistic
from training.evaluation.scores import BINS, Floats, Ints, bins_of, calibration_error, mean_recall

Booleans = npt.NDArray[np.bool_]

COVERAGES = (0.5, 0.7, 0.9)
"""Shares of the photos, the surest first, whose accuracy is reported."""


@dataclass(frozen=True)
class ClassRow:
    """A class, as the per-class table shows it.

    Attributes:
        label: its name.
        recall: share of its photos that get its name.
        precision: share of the photos named so that are of it; NaN where there are none.
        f1: their harmonic mean, 0 where the class is never named rightly.
    """

    label: str
    recall: Figure
    precision: Figure
    f1: float


@dataclass(frozen=True)
class Pair:
    """Two classes that are taken for each other.

    Attributes:
        label: the true class.
        taken_for: the class named instead.
        count: photos.
        photos: of the true class.
    """

    label: str
    taken_for: str
    count: int
    photos: int


@dataclass(frozen=True)
class Bin:
    """One bar of the reliability plot.

    Attributes:
        confidence: mean of its photos.
        accuracy: share of its photos that are right.
    """

    confidence: float
    accuracy: Figure


def classification_figures(probabilities: Floats, labels: Ints) -> dict[str, Figure]:
    """Return every figure of classification by its name in JSON.

    Args:
        probabilities: calibrated, (n, K).
        labels: true classes, (n,).
    """
    n, classes = probabilities.shape
    best = probabilities.argmax(axis=1)
    right = best == labels
    confidence = probabilities.max(axis=1)
    of_truth = probabilities[np.arange(n), labels]
    above = (probabilities > of_truth[:, None]).sum(axis=1)
    figures = {
        "top1": share(right),
        "top5": share((above < min(5, classes)) & (of_truth > 0)) if classes > 1 else share(right),
        "mean_per_class": statistic(lambda i: mean_recall(best[i], labels[i]), n),
        "macro_f1": statistic(lambda i: macro_f1(best[i], labels[i]), n),
        "nll": mean(-np.log(np.maximum(of_truth, np.finfo(np.float64).tiny))),
        "ece": statistic(lambda i: calibration_error(confidence[i], right[i]), n),
        "adaptive_ece": statistic(lambda i: adaptive_calibration_error(confidence[i], right[i]), n),
        "aurc": statistic(lambda i: area_under_risk_coverage(confidence[i], right[i]), n),
    }
    for coverage in COVERAGES:
        surest = np.argsort(-confidence, kind="stable")[: max(1, round(coverage * n))]
        figures[f"top1_of_surest_{round(100 * coverage)}"] = share(right[surest])
    return figures


def macro_f1(predicted: Ints, labels: Ints) -> float:
    """Return F1 averaged over the classes that have photos or are named."""
    classes = max(int(predicted.max()), int(labels.max())) + 1
    hits = np.bincount(labels[predicted == labels], minlength=classes)
    both = np.bincount(predicted, minlength=classes) + np.bincount(labels, minlength=classes)
    return float((2 * hits[both > 0] / both[both > 0]).mean())


def adaptive_calibration_error(confidence: Floats, right: Booleans) -> float:
    """Return the same over bins with equally many photos: where confidences crowd, equal widths see one bin."""
    order = np.argsort(confidence, kind="stable")
    gaps = [part.sum() for part in np.array_split((confidence - right)[order], min(BINS, len(right)))]
    return float(np.abs(gaps).sum() / len(right))


def area_under_risk_coverage(confidence: Floats, right: Booleans) -> float:
    """Return the mean error rate of the surest 1, 2, … n photos: 0 is best, the error rate what guessing gets."""
    return float(risk_coverage(confidence, right).mean())


def risk_coverage(confidence: Floats, right: Booleans) -> Floats:
    """Return the error rate of the surest 1, 2, … n photos, (n,)."""
    wrong = np.cumsum(~right[np.argsort(-confidence, kind="stable")])
    return np.asarray(wrong / np.arange(1, len(wrong) + 1))


def reliability(probabilities: Floats, labels: Ints) -> list[Bin]:
    """Return the bars of the reliability plot that have photos, from unsure to sure."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = bins_of(confidence)
    return [Bin(float(confidence[bins == index].mean()), share(right[bins == index])) for index in np.unique(bins)]


def confusion(predicted: Ints, labels: Ints, classes: int) -> npt.NDArray[np.int64]:
    """Return how many photos of each true class (row) are named as each class (column), (K, K)."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def confused_pairs(predicted: Ints, labels: Ints, names: Sequence[str]) -> list[Pair]:
    """Return the pairs of classes that are taken for each other, most photos first."""
    counts = confusion(predicted, labels, len(names))
    photos = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[: np.count_nonzero(counts)]
    rows, columns = np.unravel_index(order, counts.shape)
    return [
        Pair(names[row], names[column], int(counts[row, column]), int(photos[row]))
        for row, column in zip(rows, columns, strict=True)
    ]


def class_rows(predicted: Ints, labels: Ints, names: Sequence[str]) -> list[ClassRow]:
    """Return the per-class table, of the classes that have photos, in the order of the classes."""
    rows = []
    for index, name in enumerate(names):
        of_it, named = labels == index, predicted == index
        if of_it.any():
            hits, both = int((of_it & named).sum()), int(of_it.sum() + named.sum())
            rows.append(ClassRow(name, share(named[of_it]), share(of_it[named]), 2 * hits / both))
    return rows
