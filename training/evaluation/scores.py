"""Figures computed from logits alone: accuracy, calibration, and the temperature that calibrates."""

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from model.contract.graph import softmax

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

BINS = 15
"""Bins of the expected calibration error: equal widths of confidence, as in Guo et al."""


def top_k_accuracy(logits: Floats, labels: Ints, k: int) -> float:
    """Return the share of images whose class is among the k highest logits, (n, K) and (n,)."""
    highest = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float((highest == labels[:, None]).any(axis=1).mean())


def mean_recall(predicted: Ints, labels: Ints) -> float:
    """Return top-1 accuracy averaged over the classes that have photos, (n,) both."""
    photos = np.bincount(labels)
    hits = np.bincount(labels[predicted == labels], minlength=len(photos))
    return float((hits[photos > 0] / photos[photos > 0]).mean())


def negative_log_likelihood(logits: Floats, labels: Ints, temperature: float = 1.0) -> float:
    """Return the mean of -log p(true class), in nats."""
    log_probabilities = log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def expected_calibration_error(logits: Floats, labels: Ints, temperature: float = 1.0) -> float:
    """Return the mean gap between confidence and accuracy over bins of confidence.

    Source: Guo et al. 2017, "On calibration of modern neural networks", arXiv:1706.04599, eq. 3.
    """
    probabilities = softmax(logits, temperature)
    return calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)


def calibration_error(confidence: Floats, right: npt.NDArray[np.bool_]) -> float:
    """Return the mean gap between confidence and accuracy over `BINS` bins of equal width, (n,) both."""
    gaps = np.bincount(bins_of(confidence), weights=confidence - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(right))


def bins_of(confidence: Floats) -> Ints:
    """Return each photo's bin of confidence, (n,)."""
    return np.asarray(np.minimum((confidence * BINS).astype(int), BINS - 1))


def fit_temperature(logits: Floats, labels: Ints) -> float:
    """Return the temperature that maximises the likelihood of held-out labels; 1 if there are none.

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    if len(labels) == 0 or not np.isfinite(logits).all():
        return 1.0
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(logits, labels, float(np.exp(log_t))),
        bounds=(np.log(0.05), np.log(20.0)),
        method="bounded",
    )
    return float(np.exp(found.x))


def accuracy_figures(logits: Floats, labels: Ints, temperature: float) -> dict[str, float]:
    """Return every figure of this module by its name in JSON."""
    return {
        "images": float(len(labels)),
        "top1": top_k_accuracy(logits, labels, 1),
        "top5": top_k_accuracy(logits, labels, min(5, logits.shape[1])),
        "mean_per_class": mean_recall(logits.argmax(axis=1), labels),
        "nll": negative_log_likelihood(logits, labels, temperature),
        "ece": expected_calibration_error(logits, labels, temperature),
        "ece_uncalibrated": expected_calibration_error(logits, labels),
        "temperature": temperature,
    }
