"""Prediction sets, fitted to the answers of folds, and the scores among which theirs was chosen.

The folds' photos chose no epoch, and only one number of the model is fitted to them, its temperature. The photos that a
run without folds holds out chose its epoch: sets fitted to them would promise too much, so there are none.

Source: Sadinle, Lei & Wasserman 2019 (LAC); Romano, Sesia & Candès 2020, arXiv:2006.02544 (APS); Angelopoulos, Bates,
Jordan & Malik 2021, arXiv:2009.14193 (RAPS).
"""

import numpy as np
import numpy.typing as npt

from model.contract.graph import softmax
from model.contract.sets import SetGroup, Sets, needed_photos, write_missed
from training.calibration.outputs import Outputs

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Booleans = npt.NDArray[np.bool_]

ENOUGH = 150
"""Least photos of a class with a threshold of its own: with fewer, the coverage that the class gets where 90% are
requested is more than five points off once in twenty times."""


def fit_sets(outputs: Outputs, temperature: float) -> Sets | None:
    """Return how the sets of a run's model are made; None where its photos were not held out in folds.

    Args:
        outputs: for held-out photos.
        temperature: of the model's probabilities.
    """
    if len(outputs.labels) == 0 or not (outputs.fold > 0).all() or not np.isfinite(outputs.logits).all():
        return None
    probabilities, labels = softmax(outputs.logits, temperature), outputs.labels
    photos = np.bincount(labels, minlength=probabilities.shape[1])
    own = np.flatnonzero(photos >= ENOUGH)
    groups = [_group(probabilities, labels, labels == index, (int(index),)) for index in own]
    if len(own) < len(photos):
        rest = ~np.isin(labels, own)
        # Where the others have too few photos even together, all photos stand for them.
        groups.append(_group(probabilities, labels, rest if rest.sum() >= ENOUGH else np.ones_like(rest)))
    return Sets(groups=tuple(groups))


def _group(probabilities: Floats, labels: Ints, chosen: Booleans, classes: tuple[int, ...] = ()) -> SetGroup:
    p, of = probabilities[chosen], labels[chosen]
    missed = p.argmax(axis=1) != of
    return SetGroup(classes=classes, num_photos=len(of), missed=write_missed(p[np.arange(len(of)), of][missed]))


def lac_scores(probabilities: Floats) -> Floats:
    """Return the score of every class, (n, K): a set holds the classes whose score is low."""
    return 1 - probabilities


def aps_scores(probabilities: Floats, u: Floats | float = 0.0) -> Floats:
    """Return the probability of all classes that are likelier than each class, and of the class itself, (n, K).

    Args:
        probabilities: (n, K).
        u: share of the class's own probability that is left out: random in [0, 1), (n,), as published, or none.
    """
    sorted_, place = _ordered(probabilities)
    return np.take_along_axis(sorted_.cumsum(axis=1) - np.reshape(u, (-1, 1)) * sorted_, place, axis=1)


def raps_scores(probabilities: Floats, weight: float, rank: int, u: Floats | float = 0.0) -> Floats:
    """Return the scores of APS with a penalty on classes of high rank, (n, K).

    Args:
        probabilities: (n, K).
        weight: of every rank behind `rank`.
        rank: last one without penalty.
        u: as for `aps_scores`.
    """
    _, place = _ordered(probabilities)
    return aps_scores(probabilities, u) + weight * np.maximum(0, place + 1 - rank)


def never_empty(scores: Floats, probabilities: Floats) -> Floats:
    """Return scores of which the likeliest class has the lowest, so that it is in every set and is calibrated there."""
    found = scores.copy()
    found[np.arange(len(found)), probabilities.argmax(axis=1)] = -np.inf
    return found


def threshold_of(scores: Floats, coverage: float) -> float:
    """Return the score that the sets of so large a share of photos reach; infinite where they are too few.

    Args:
        scores: of the true classes of calibration photos, (n,).
        coverage: between 0 and 1.
    """
    needed = needed_photos(len(scores), coverage)
    return float(np.sort(scores)[needed - 1]) if needed <= len(scores) else float("inf")


def _ordered(probabilities: Floats) -> tuple[Floats, Ints]:
    """Return the probabilities in falling order, and the place of each class in it, (n, K) both."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    return np.take_along_axis(probabilities, order, axis=1), np.argsort(order, axis=1)
