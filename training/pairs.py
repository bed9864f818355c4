"""Two arms compared on the same photos: the difference of a metric, its interval, and what it would take.

Accuracy varies for two reasons: another seed trains another network, and other photos are other questions. An
interval over seeds alone does not cover other photos; a test over photos alone does not cover training again. Here
both are resampled, the same seeds and photos for both arms.

Source: Owen 2007, "The pigeonhole bootstrap", arXiv:0712.1111 (rows and columns both resampled); Searle, Casella &
McCulloch 1992, "Variance Components", ch. 4 (crossed, one value a cell); Satterthwaite 1946 (degrees of freedom);
McNemar 1947.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from training.evaluation.figures import LEVEL, Figure

Floats = npt.NDArray[np.float64]

BASELINE = "plain"
CONTROLS = ("unguided", "guided-uniform", "guided-shuffled")
"""What an arm is set against besides plain: does the content of the guidance matter?"""
AIM = 0.01
"""Half-width wanted of an interval: one point."""
MOST_SEEDS = 10_000
RESAMPLES = 4000
CHUNK = 250
"""Resamples at once: 250 × 5,794 photos are 12 MB."""


@dataclass(frozen=True)
class Variances:
    """Where values (S, n), of S seeds on n photos, vary: analysis of variance, one value a cell.

    Attributes:
        seeds: S.
        photos: n.
        of_seeds: mean square between seeds; its expectation is n·σ²(seed) + σ²(rest).
        of_photos: mean square between photos; S·σ²(photo) + σ²(rest).
        of_rest: mean square of what neither explains; σ²(rest).
    """

    seeds: int
    photos: int
    of_seeds: float
    of_photos: float
    of_rest: float

    @classmethod
    def measured(cls, values: Floats) -> "Variances":
        """Return those of values (S, n), with at least two of each."""
        seeds, photos = values.shape
        of_seed, of_photo = values.mean(axis=1), values.mean(axis=0)
        rest = values - of_seed[:, None] - of_photo + values.mean()
        return cls(
            seeds,
            photos,
            photos * float(of_seed.var(ddof=1)),
            seeds * float(of_photo.var(ddof=1)),
            float((rest**2).sum()) / ((seeds - 1) * (photos - 1)),
        )

    @property
    def of_mean(self) -> float:
        """Variance of the mean over seeds and photos, (MS(seeds) + MS(photos) − MS(rest)) / Sn; at least the rest's."""
        total = max(self.of_seeds + self.of_photos - self.of_rest, self.of_rest)
        return total / (self.seeds * self.photos)

    @property
    def degrees_of_freedom(self) -> float:
        """Satterthwaite's, of `of_mean`: S − 1 where seeds make the difference, n − 1 where photos do."""
        total = self.of_mean * self.seeds * self.photos
        parts = (
            self.of_seeds**2 / (self.seeds - 1)
            + self.of_photos**2 / (self.photos - 1)
            + self.of_rest**2 / ((self.seeds - 1) * (self.photos - 1))
        )
        return max(1.0, total**2 / parts) if parts else math.inf

    def half_width(self, seeds: int) -> float:
        """Return the half-width to be expected of an interval with so many seeds on these photos."""
        seed = max(0.0, self.of_seeds - self.of_rest) / self.photos
        photo = max(0.0, self.of_photos - self.of_rest) / self.seeds
        expected = Variances(
            seeds, self.photos, self.photos * seed + self.of_rest, seeds * photo + self.of_rest, self.of_rest
        )
        return _quantile(expected.degrees_of_freedom) * math.sqrt(expected.of_mean)

    def seeds_for(self, half_width: float) -> int | None:
        """Return the least number of seeds whose interval is expected to be no wider than ± half_width.

        It is the least S ≥ 2 with t·√(σ²(seed)/S + σ²(photo)/n + σ²(rest)/(S·n)) ≤ half_width, where t is Student's
        0.975 quantile with Satterthwaite's degrees of freedom, and σ² are the variance components found. None: more
        than `MOST_SEEDS`, because photos alone make the interval wider; then it takes more photos.
        """
        if self.half_width(MOST_SEEDS) > half_width:
            return None
        low, high = 1, MOST_SEEDS  # more seeds never widen it
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.half_width(middle) <= half_width else (middle, high)
        return high


def mean_over_both(values: npt.ArrayLike) -> Figure:
    """Return the mean of values (S, n) with an interval for other seeds and other photos; NaN ends with one seed.

    The standard error is that of `resampled_means`, corrected: resampling rows and columns counts what is of one seed
    on one photo three times (Owen 2007), so two of its MS(rest)/Sn are taken off. The interval is mean ±
    Student's t × standard error. Percentiles of the resamples cover 68% (2 seeds) or 82% (3) instead of 95% where seeds
    matter most, and more than 99% where what is counted three times does; this interval, 90 to 99%.
    """
    numbers = np.asarray(values, dtype=np.float64)
    seeds, photos = numbers.shape
    mean = float(numbers.mean())
    if seeds < 2 or photos < 2:
        return Figure(mean, math.nan, math.nan, photos)
    found = Variances.measured(numbers)
    noise = found.of_rest / (seeds * photos)
    variance = max(float(resampled_means(numbers).var()) - 2 * noise, noise)
    half = _quantile(found.degrees_of_freedom) * math.sqrt(variance)
    return Figure(mean, mean - half, mean + half, photos)


def resampled_means(values: Floats, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Return the means of values (S, n) over seeds and photos both drawn with replacement, (resamples,).

    One fewer is drawn of each than there are: so the variance between seeds, and between photos, is unbiased.
    """
    seeds, photos = values.shape
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, CHUNK):
        count = min(CHUNK, resamples - start)
        drawn = rng.multinomial(seeds - 1, np.full(seeds, 1 / seeds), size=count) / (seeds - 1)
        which = rng.integers(photos, size=(count, photos - 1))
        # einsum, because the threads of a matrix product cost more than they save at this size.
        means.append(np.take_along_axis(np.einsum("bs,sn->bn", drawn, values), which, axis=1).mean(axis=1))
    return np.concatenate(means)


@dataclass(frozen=True)
class Difference:
    """An arm against another, over the seeds that both have.

    Attributes:
        arm: the one.
        against: the other.
        seeds: how many.
        mean: of arm − other.
        low: end of the 95% interval; NaN with fewer than two seeds.
        high: its other end.
        photos: number of photos resampled beside the seeds; 0: predictions are missing, and it is a t-interval over
            seeds on these very photos.
        p: of McNemar's exact test, `mcnemar`; NaN without predictions, and for metrics that are not yes or no.
        p_of_seeds: of the same test for each seed alone.
        won: higher (right) with this arm only, photos summed over seeds.
        lost: with the other only.
        seeds_for_aim: seeds that would give ± `AIM`; None: no number would, or it is unknown.
        metric: whose difference it is.
    """

    arm: str
    against: str
    seeds: int
    mean: float
    low: float
    high: float
    photos: int = 0
    p: float = math.nan
    p_of_seeds: tuple[float, ...] = ()
    won: int = 0
    lost: int = 0
    seeds_for_aim: int | None = None
    metric: str = "top1"

    @property
    def half_width(self) -> float:
        """Of the interval."""
        return (self.high - self.low) / 2

    @property
    def shown(self) -> bool:
        """Whether the interval excludes zero."""
        return self.seeds > 1 and not self.low <= 0 <= self.high

    def verdict(self) -> str:
        """Return the conclusion from the interval in words."""
        if self.seeds < 2:
            return "one seed: no interval"
        if not self.shown:
            return "contains zero: no difference shown"
        return "better" if self.low > 0 else "worse"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        known, tested = bool(self.photos), not math.isnan(self.p)
        return {
            "metric": self.metric,
            "arm": self.arm,
            "against": self.against,
            "seeds": self.seeds,
            "paired_by": "seed and photo" if known else "seed",
            "difference": Figure(self.mean, self.low, self.high, self.photos or self.seeds).to_dict(),
            "half_width": None if math.isnan(self.low) else self.half_width,
            "verdict": self.verdict(),
            "mcnemar_p": self.p if tested else None,
            "mcnemar_p_by_seed": list(self.p_of_seeds) if tested else None,
            "won": self.won if known else None,
            "lost": self.lost if known else None,
            "seeds_for_one_point": self.seeds_for_aim,
        }


def mcnemar(differences: npt.ArrayLike) -> float:
    """Return the exact two-sided p of McNemar's test on differences (S, n) of being right: 1, 0 or −1.

    A photo counts once, for the arm that names it rightly with more seeds; photos on which they draw are left out.
    With one seed this is McNemar's test itself. (Summing the pairs of all seeds would count a photo S times, as if
    the same question asked again were evidence.) It tests whether *these* networks differ on photos like these, not
    whether networks trained again would; that is what the interval covers.
    """
    totals = np.atleast_2d(np.asarray(differences)).sum(axis=0)
    won, lost = int((totals > 0).sum()), int((totals < 0).sum())
    return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0


def by_photo(
    arm: str, against: str, photos: Mapping[str, Mapping[int, npt.NDArray[Any]]], metric: str = "top1"
) -> Difference | None:
    """Return the mean difference over common seeds, paired by photo; None without common seeds or photos.

    Args:
        arm: the one.
        against: the other.
        photos: arm → seed → a value a photo, (n,), the same photos in the same order, such as whether it is named
            rightly. Photos with NaN in any of the runs do not count.
        metric: whose values they are.
    """
    seeds = sorted(photos.get(arm, {}).keys() & photos.get(against, {}).keys())
    values = np.array([[photos[name][seed] for seed in seeds] for name in (arm, against)], dtype=np.float64)
    if not seeds or not (counted := np.isfinite(values).all(axis=(0, 1))).any():
        return None
    differences = values[0][:, counted] - values[1][:, counted]
    figure = mean_over_both(differences)
    binary = bool(np.isin(values[..., counted], (0, 1)).all())
    return Difference(
        arm,
        against,
        len(seeds),
        figure.value,
        figure.low,
        figure.high,
        figure.n,
        mcnemar(differences) if binary else math.nan,
        tuple(mcnemar(row) for row in differences) if binary else (),
        int((differences > 0).sum()),
        int((differences < 0).sum()),
        Variances.measured(differences).seeds_for(AIM) if min(differences.shape) > 1 else None,
        metric,
    )


def by_seed(
    arm: str, against: str, values: Mapping[str, Mapping[int, float]], metric: str = "top1"
) -> Difference | None:
    """Return the difference over common seeds with its 95% t-interval; None without common seeds.

    Args:
        arm: the one.
        against: the other.
        values: arm → seed → figure.
        metric: whose figures they are.
    """
    seeds = sorted(values.get(arm, {}).keys() & values.get(against, {}).keys())
    if not seeds:
        return None
    figure = mean_of({seed: values[arm][seed] - values[against][seed] for seed in seeds}, {})
    return Difference(arm, against, len(seeds), figure.value, figure.low, figure.high, metric=metric)


def differences(
    values: Mapping[str, Mapping[int, float]],
    photos: Mapping[str, Mapping[int, npt.NDArray[Any]]],
    metric: str = "top1",
) -> list[Difference]:
    """Return every arm against plain and against every control there is, each pair once.

    They are paired by photo, unless predictions are missing and that would leave seeds out: then by seed.

    Args:
        values: arm → seed → figure.
        photos: arm → seed → a value a photo, as for `by_photo`.
        metric: whose values they are.
    """
    references = [name for name in (BASELINE, *CONTROLS) if name in values]
    found: list[Difference] = []
    for arm, against in ((arm, against) for arm in values for against in references if arm not in (against, BASELINE)):
        if any((pair.arm, pair.against) == (against, arm) for pair in found):
            continue
        seeds, both = by_seed(arm, against, values, metric), by_photo(arm, against, photos, metric)
        if chosen := both if both and seeds and both.seeds >= seeds.seeds else seeds:
            found.append(chosen)
    return found


def mean_of(values: Mapping[int, float], photos: Mapping[int, npt.NDArray[Any]]) -> Figure:
    """Return an arm's mean over seeds with its interval: over photos too where every seed has its predictions.

    Args:
        values: seed → figure.
        photos: seed → a value a photo, (n,), none of them NaN; empty, or lacking seeds, where that is unknown.
    """
    if values and values.keys() <= photos.keys():
        return mean_over_both(np.array([photos[seed] for seed in values]))
    numbers = np.array(list(values.values()))
    mean, count = float(numbers.mean()) if len(numbers) else math.nan, len(numbers)
    if count < 2:
        return Figure(mean, math.nan, math.nan, count)
    half = _quantile(count - 1) * float(numbers.std(ddof=1)) / math.sqrt(count)
    return Figure(mean, mean - half, mean + half, count)


def _quantile(degrees_of_freedom: float) -> float:
    return float(stats.t.ppf(0.5 + LEVEL / 2, degrees_of_freedom))
