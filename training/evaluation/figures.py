"""A figure with its 95% interval: of a share by Wilson, of anything else by the bootstrap over photos.

Source: Wilson 1927 (score interval); Efron & Tibshirani 1993, "An Introduction to the Bootstrap", ch. 13 (percentile).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

Floats = npt.NDArray[np.floating]

LEVEL = 0.95
RESAMPLES = 1000


@dataclass(frozen=True)
class Figure:
    """What was measured.

    Attributes:
        value: the estimate.
        low: lower end of its 95% interval; NaN where there is none.
        high: upper end.
        n: photos it stands on.
    """

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Return what stands in JSON: a number that does not exist is null there."""
        return {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def share(hits: npt.ArrayLike) -> Figure:
    """Return the share of photos that hit, (n,) booleans, with Wilson's interval."""
    values = np.asarray(hits, dtype=bool)
    if len(values) == 0:
        return Figure(float("nan"), float("nan"), float("nan"), 0)
    interval = binomtest(int(values.sum()), len(values)).proportion_ci(LEVEL, method="wilson")
    return Figure(float(values.mean()), float(interval.low), float(interval.high), len(values))


def mean(values: npt.ArrayLike) -> Figure:
    """Return the mean over photos, (n,), with a bootstrap interval; NaN marks a photo that does not count."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return statistic(lambda chosen: float(known[chosen].mean()), len(known), (-np.inf, np.inf))


def statistic(
    of: Callable[[npt.NDArray[np.integer]], float], n: int, within: tuple[float, float] = (0.0, 1.0)
) -> Figure:
    """Return a statistic of n photos with a bootstrap interval.

    Photos that are drawn twice bias some statistics, an error of calibration upwards, F1 downwards: the interval is
    shifted back by the difference between the resamples' mean and the value.

    Args:
        of: the statistic of the photos with these indices, which may repeat.
        n: photos there are.
        within: least and greatest value that the statistic can have; the interval is clipped to them.
    """
    return statistics(lambda chosen: [of(chosen)], n, [within])[0]


def statistics(
    of: Callable[[npt.NDArray[np.integer]], Sequence[float]], n: int, within: Sequence[tuple[float, float]]
) -> list[Figure]:
    """Return several statistics of the same n photos, as `statistic` does one.

    Args:
        of: the statistics of the photos with these indices, which may repeat.
        n: photos there are.
        within: least and greatest value that each can have.
    """
    if n == 0:
        return [Figure(float("nan"), float("nan"), float("nan"), 0)] * len(within)
    rng = np.random.default_rng(0)  # the same photos give the same interval
    drawn = np.array([of(rng.integers(n, size=n)) for _ in range(RESAMPLES)])
    values = of(np.arange(n))
    found = []
    for value, resampled, ends in zip(values, drawn.T, within, strict=True):
        if not np.isfinite(resampled).any():
            found.append(Figure(float(value), float("nan"), float("nan"), n))
            continue
        low, high = np.nanquantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - (np.nanmean(resampled) - value)
        found.append(Figure(float(value), float(np.clip(low, *ends)), float(np.clip(high, *ends)), n))
    return found
