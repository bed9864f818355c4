"""Is a photo like those of any class? The model's novelty against its threshold, and as a share of held-out photos.

A rank among held-out photos has the same meaning for every model, whatever its novelty is a measure of: of photos like
the training photos, a twentieth is above 0.95. That is what the drift alert counts on.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple, SupportsFloat

from model.contract.manifest import Novelty

QUANTILE_DIGITS = 3
"""Decimals of a quantile that is shown: of some thousand photos there are no more."""


class Judgement(NamedTuple):
    """What is said of a photo.

    Attributes:
        known: whether it is like photos of some class.
        quantile: share of held-out photos that are less novel, in [0, 1].
    """

    known: bool
    quantile: float


def judge(value: SupportsFloat | None, novelty: Novelty | None) -> Judgement | None:
    """Return what a model's novelty says of a photo; a value that is no number is the most novel of all.

    Args:
        value: the graph's output for the photo.
        novelty: of the model's manifest; None, as the value, where the model has none.
    """
    if value is None or novelty is None:
        return None
    value = float(value)  # numpy would compare in float32
    return Judgement(known=value <= novelty.threshold, quantile=quantile_of(value, novelty.quantiles))


def quantile_of(value: float, quantiles: Sequence[float]) -> float:
    """Return where a value lies among quantiles, interpolated linearly and clipped to [0, 1]; 1 for NaN.

    Args:
        value: any.
        quantiles: at least two, ascending, evenly spaced from the share 0 to the share 1; equal ones count as passed.
    """
    if math.isnan(value):
        return 1.0
    above = bisect_right(quantiles, value)
    if above in (0, len(quantiles)):
        return float(above > 0)
    low, high = quantiles[above - 1], quantiles[above]
    return (above - 1 + (value - low) / (high - low)) / (len(quantiles) - 1)
