"""Does *seen* tell photos of classes that have a mark from photos of classes that do not?

Of a mark, the photos of classes on which at least half of the observers see it are positive, the photos of all other
classes negative; figures are means over the marks that have both. A network that names the class well gets a high
figure by the class alone, without looking at any mark: its probabilities times the table are the baseline. Only on
classes that were not trained on does the table not help.

Source: Hanley & McNeil 1982, doi:10.1148/radiology.143.1.7063747 (the area as a rank statistic); Lampert et al. 2009,
doi:10.1109/CVPR.2009.5206594 (attributes on classes that were not trained on).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from training.evaluation.figures import Figure, statistics
from training.evaluation.maps.regions import Booleans, Floats
from training.evaluation.marks.readings import TYPICAL
from training.evaluation.scores import Ints


@dataclass(frozen=True, eq=False)
class LeftOut:
    """The photos of classes that a network was not trained on.

    Attributes:
        seen: probability of each mark, or any score that ranks photos alike, (n, A).
        probabilities: of the classes that it was trained on, (n, K').
        kept: what the table says of those, (K', A); NaN where nobody said.
        truth: what the table says of each photo's own class, (n, A); likewise.
        drawn: number of what each photo is drawn with when samples are drawn again, (n,): its class.
    """

    seen: Floats
    probabilities: Floats
    kept: Floats
    truth: Floats
    drawn: Ints


def auroc_figures(seen: Floats, probabilities: Floats, table: Floats, labels: Ints) -> dict[str, Figure]:
    """Return the mean area over marks, that of the baseline, and their difference on the same photos, by JSON name.

    Args:
        seen: probability of each mark, (n, A).
        probabilities: of the classes, (n, K).
        table: share of observers who see a mark on a class, (K, A); NaN where nobody said.
        labels: true classes, (n,).
    """
    return _compared([LeftOut(seen, probabilities, table, table[labels], np.arange(len(labels)))], "mark_auroc")


def left_out_figures(splits: Sequence[LeftOut]) -> dict[str, Figure]:
    """Return the same of classes that were not trained on, the mean over splits.

    Intervals are over classes: the question is of other classes, and photos of one have all its marks in common.

    Args:
        splits: each of another network and other classes.
    """
    return _compared(splits, "left_out_auroc")


def product(probabilities: Floats, table: Floats) -> Floats:
    """Return what the class alone says of each mark: probabilities times the table, (n, A); an unknown share is 0."""
    return np.asarray(probabilities @ np.nan_to_num(table))


def mark_areas(scores: Floats, truth: Floats) -> Floats:
    """Return the area under the curve of each mark, (A,); NaN where no photo, or every one, is of a class that has it.

    Args:
        scores: of the marks, (n, A).
        truth: share of observers who see a mark on each photo's class, (n, A); NaN where nobody said.
    """
    return _Ranked(scores, truth).areas(np.ones(len(scores)))


def _compared(splits: Sequence[LeftOut], name: str) -> dict[str, Figure]:
    """Return the figures of *seen*, of the product, and of their difference, each a mean over marks, then splits."""
    numbered = [np.unique(split.drawn, return_inverse=True) for split in splits]
    starts = np.cumsum([0, *(len(names) for names, _ in numbered)])
    ranked = [
        (_Ranked(split.seen, split.truth), _Ranked(product(split.probabilities, split.kept), split.truth))
        for split in splits
    ]

    def areas(chosen: npt.NDArray[np.integer]) -> tuple[float, float, float]:
        times = np.split(np.bincount(chosen, minlength=starts[-1]), starts[1:-1])
        counts = [each[of_photo] for each, (_, of_photo) in zip(times, numbered, strict=True)]
        pairs = [[_mean(one.areas(count)) for one in both] for both, count in zip(ranked, counts, strict=True)]
        seen, by_class = np.mean(pairs, axis=0)
        return float(seen), float(by_class), float(seen - by_class)

    names = (name, f"{name}_product", f"{name}_minus_product")
    figures = statistics(areas, int(starts[-1]), [(0.0, 1.0), (0.0, 1.0), (-1.0, 1.0)])
    photos = sum(len(split.seen) for split in splits)
    return {one: replace(figure, n=photos) for one, figure in zip(names, figures, strict=True)}


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


class _Ranked:
    """Photos in the order of their scores, mark by mark, so that areas of resampled photos need no sorting.

    Args:
        scores: (n, A).
        truth: share of observers, (n, A); NaN where nobody said.
    """

    def __init__(self, scores: Floats, truth: Floats) -> None:
        positive: Booleans = truth >= TYPICAL
        negative: Booleans = truth < TYPICAL
        self._usable = np.asarray(positive.any(axis=0) & negative.any(axis=0))
        columns = np.asarray(scores)[:, self._usable].T
        self._order = np.argsort(columns, axis=1, kind="stable")
        ranked = np.take_along_axis(columns, self._order, 1)
        self._positive, self._negative = (
            np.take_along_axis(those[:, self._usable].T, self._order, 1).astype(np.float32)
            for those in (positive, negative)
        )
        new = np.concatenate([np.ones((len(ranked), 1), bool), ranked[:, 1:] != ranked[:, :-1]], axis=1)
        position = np.arange(ranked.shape[1])
        self._tied = not new.all()
        self._first = np.maximum.accumulate(np.where(new, position, 0), axis=1)
        last = np.concatenate([new[:, 1:], np.ones((len(ranked), 1), bool)], axis=1)
        self._last = np.minimum.accumulate(np.where(last, position, len(position))[:, ::-1], axis=1)[:, ::-1]

    def areas(self, counts: Floats | Ints) -> Floats:
        """Return the area of each mark, (A,), NaN where there is none, of photos that occur so many times, (n,)."""
        weights = np.asarray(counts, dtype=np.float32)[self._order]
        positive, negative = weights * self._positive, weights * self._negative
        up_to = np.cumsum(negative, axis=1)  # whole numbers, which single floats hold exactly
        beaten = 2 * up_to
        if self._tied:  # photos with the same score count half
            before = np.take_along_axis(up_to - negative, self._first, 1)
            beaten = before + np.take_along_axis(up_to, self._last, 1)
        found = np.full(len(self._usable), np.nan)
        pairs = 2.0 * positive.sum(axis=1) * up_to[:, -1]
        areas = np.einsum("an,an->a", positive, beaten, dtype=np.float64)
        found[self._usable] = np.divide(areas, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
        return found
