"""How often a model's prediction sets hold the true class, and how large they are.

Source: Vovk 2012, arXiv:1209.2673: the coverage of split conformal sets has a beta distribution over draws of the
calibration photos, and so the hits among n photos a beta-binomial one.
"""

import numpy as np
import numpy.typing as npt
from scipy.stats import betabinom

from model.contract.sets import Sets, needed_photos
from training.evaluation.figures import LEVEL, Figure, mean, share
from training.evaluation.scores import Floats, Ints

COVERAGE = 0.9
"""Requested of the sets that are measured."""
LARGE = 4
"""Sets of so many classes or more are counted together."""


def set_figures(
    sets: Sets, probabilities: Floats, labels: Ints, coverage: float = COVERAGE
) -> dict[str, Figure | float]:
    """Return the figures of a model's sets by their names in JSON.

    `set_coverage` is the share of photos whose set holds their class, beside the interval that the numbers of photos
    allow; `set_size` the mean number of classes. Of each size there is the share of photos with such a set, and the
    coverage among them, sizes of `LARGE` and more in one.

    Args:
        sets: of the model.
        probabilities: calibrated, (n, K).
        labels: true classes, (n,).
        coverage: requested.
    """
    members = members_of(sets, probabilities, coverage)
    hit, size = members[np.arange(len(labels)), labels], members.sum(axis=1)
    low, high = expected_coverage(sets.num_photos, len(labels), coverage)
    figures: dict[str, Figure | float] = {
        "set_coverage": share(hit),
        "set_coverage_expected_low": low,
        "set_coverage_expected_high": high,
        "set_size": mean(size),
    }
    for of in range(1, LARGE + 1):
        such = size == of if of < LARGE else size >= LARGE
        if such.any():
            name = f"sets_of_{of}" if of < LARGE else f"sets_of_{of}_or_more"
            figures |= {name: share(such), f"{name}_coverage": share(hit[such])}
    return figures


def members_of(sets: Sets, probabilities: Floats, coverage: float) -> npt.NDArray[np.bool_]:
    """Return whether each class is in each photo's set, (n, K)."""
    members = np.zeros(probabilities.shape, bool)
    for row, values in zip(members, probabilities, strict=True):
        row[sets.of(values.tolist(), coverage)] = True
    return members


def expected_coverage(calibrated: int, photos: int, coverage: float) -> tuple[float, float]:
    """Return the 95% interval of the share of photos whose set holds their class.

    Args:
        calibrated: photos that the threshold is fitted to.
        photos: others, like these, that it is measured on.
        coverage: requested.
    """
    needed = needed_photos(calibrated, coverage)
    if needed > calibrated:
        return 1.0, 1.0
    low, high = betabinom.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2], photos, needed, calibrated + 1 - needed)
    return float(low) / photos, float(high) / photos
