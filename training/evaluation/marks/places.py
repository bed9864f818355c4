"""Are the marks read where they are? A mark's map against the photo's annotated parts.

A mark and a part of the data set belong together where the part's word is one of the mark's (`parts.word_of`); left and
right are one part, of which any visible one counts. Counted are the marks that are typical of the photo's class, at
parts that are visible. A figure is a mean over mark–photo pairs; its interval is over photos.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.evaluation.figures import Figure, statistic
from training.evaluation.maps.chance import centred_gaussian
from training.evaluation.maps.parts import REACH, word_of
from training.evaluation.maps.regions import Booleans, Floats, value_at
from training.evaluation.marks.readings import MarkList, Spots, shown_of, spots_of

MARKS = "marks"
"""The row of the marks' own maps."""
LOCATED = "located"
"""In place of a part: the marks that the network says it can place, where there are others."""


@dataclass(frozen=True)
class PlaceRow:
    """A line of the table of places.

    Attributes:
        name: whose maps: `marks`, a map of the class, or a chance row.
        part: of the marks; empty: all of them, `LOCATED`: those the network says it can place.
        pairs: marks and photos.
        figures: `hits`: the map's highest place lies within an eighth of the box's sides of the part. `auc`: share of
            the photo's other visible parts at which the map is lower than at the mark's own; equal counts half.
    """

    name: str
    part: str
    pairs: int
    figures: Mapping[str, Figure]

    def to_dict(self) -> dict[str, Any]:
        """Return the line as it stands in JSON."""
        figures = {name: figure.to_dict() for name, figure in self.figures.items()}
        return {"map": self.name, "part": self.part, "pairs": self.pairs, **figures}


def owners(mark_parts: Sequence[str], parts: Sequence[str]) -> Booleans:
    """Return which parts of the data set each mark is at, (A, P)."""
    words = [word_of(part) for part in parts]
    return np.array([[word in named.split() for word in words] for named in mark_parts], dtype=bool).reshape(
        len(mark_parts), len(parts)
    )


def place_rows(
    spots: Mapping[str, Spots], marks: MarkList, typical: Booleans, points: Floats, sides: Floats, parts: Sequence[str]
) -> list[PlaceRow]:
    """Return the table of places: each row of maps as a whole, then part by part.

    Args:
        spots: row → where its maps are highest, and their values at the parts.
        marks: of the network.
        typical: whether a mark is typical of a photo's class, (n, A).
        points: where the parts are, (n, P, 2).
        sides: width and height of the object's box, (n, 2); NaN where unknown.
        parts: names of the P parts.
    """
    at = owners(marks.parts, parts)
    groups = {"": np.ones(len(marks.parts), bool)}
    if not marks.located.all():
        groups[LOCATED] = marks.located
    groups |= {part: np.array([part == one for one in marks.parts]) for part in dict.fromkeys(marks.parts)}
    rows = []
    for name, found in spots.items():
        hits, auc = hits_and_auc(found, typical, at, points, sides)
        for part, members in groups.items():
            counted = np.isfinite(hits[:, members])
            if counted.any():
                figures = {"hits": pair_mean(hits[:, members]), "auc": pair_mean(auc[:, members])}
                rows.append(PlaceRow(name, part, int(counted.sum()), figures))
    return rows


def hits_and_auc(spots: Spots, typical: Booleans, at: Booleans, points: Floats, sides: Floats) -> tuple[Floats, Floats]:
    """Return whether each mark's map hits its part, and the share of other parts at which it is lower, (n, A) both.

    NaN for a mark that is not typical of the photo's class, or whose part is not visible; of the share also where no
    other part is visible, of the hits also where there is no box.

    Args:
        spots: where the maps are highest, and their values at the parts.
        typical: whether a mark is typical of a photo's class, (n, A).
        at: which parts each mark is at, (A, P).
        points: where the parts are, (n, P, 2).
        sides: of the object's box, (n, 2).
    """
    visible = shown_of(points)
    own = at[None] & visible[:, None]
    counted = typical & own.any(axis=2)
    with np.errstate(invalid="ignore"):
        near = (np.abs(spots.peaks[:, :, None] - points[:, None]) <= REACH * sides[:, None, None]).all(axis=3)
    hits = np.where(counted & shown_of(sides)[:, None], (near & own).any(axis=2), np.nan)
    others = visible[:, None] & ~at[None]
    values = np.broadcast_to(spots.values, own.shape)
    best = np.max(values, axis=2, where=own, initial=-np.inf)[:, :, None]
    lower = ((best > values) + 0.5 * (best == values)) * others
    count = others.sum(axis=2)
    auc = np.divide(lower.sum(axis=2), count, out=np.full(counted.shape, np.nan), where=counted & (count > 0))
    return hits, auc


def pair_mean(values: Floats) -> Figure:
    """Return the mean over mark–photo pairs, (n, A), with an interval over photos; NaN does not count."""
    counts = np.isfinite(values).sum(axis=1)
    sums, counts = np.nansum(values, axis=1)[counts > 0], counts[counts > 0]
    return statistic(lambda chosen: float(sums[chosen].sum() / counts[chosen].sum()), len(counts))


def chance_spots(points: Floats, middles: Floats, grid: tuple[int, int], size: int, seed: int = 0) -> dict[str, Spots]:
    """Return what maps find that know nothing of the marks, by the name of their row; one map a photo.

    Args:
        points: where the parts are, (n, P, 2).
        middles: of the true boxes, (n, 2).
        grid: (h, w) of the marks' maps, which the random ones share.
        size: side of the input, pixels.
        seed: of the random maps.

    Returns:
        `centred_gaussian`; `box_centre`, the nearer to the middle of the true box the higher; `random`.
    """
    distances = np.linalg.norm(points - middles[:, None], axis=2)
    random = np.random.default_rng(seed).random((len(points), 1, *grid), dtype=np.float32)
    gaussian = _read(centred_gaussian(size), points, size)
    return {
        "centred_gaussian": Spots(np.full((len(points), 1, 2), size / 2), gaussian),
        "box_centre": Spots(middles[:, None], -distances[:, None]),
        "random": spots_of(random, points, size),
    }


def _read(values: Floats, points: Floats, size: int) -> Floats:
    """Return a map's values at the parts of all photos, (n, 1, P); NaN where one is not visible."""
    known = np.nan_to_num(points)
    read = value_at(values, known[:, None, :, 0], known[:, None, :, 1], size)
    return np.where(shown_of(points)[:, None], read, np.nan)
