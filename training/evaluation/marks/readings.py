"""What a network says of the marks of photos, and where: read off its maps while the photos go by.

The maps of all marks of all photos would take gigabytes; kept are a map's highest place and its values at the parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.contract.manifest import Marks
from model.contract.marks import read_table
from training.evaluation.maps.annotations import Annotation
from training.evaluation.maps.regions import Booleans, Floats, value_at
from training.evaluation.scores import Ints

TYPICAL = 0.5
"""Least share of observers who see a mark on a class for which the mark counts as typical."""
FOREGROUND = 1e-3
"""Sum of the parts' shares in a place at which half of the difference is expected; parts' shares sum to 1 a photo."""


@dataclass(frozen=True, eq=False)
class MarkList:
    """The marks that a network was trained on.

    Attributes:
        names: of the A marks.
        parts: where each is, as the data set names it.
        located: whether the network says that the mark's map points at a place, (A,).
        table: share of observers who see a mark on a class, (K, A); NaN where nobody said.
    """

    names: tuple[str, ...]
    parts: tuple[str, ...]
    located: Booleans
    table: Floats

    @classmethod
    def of_manifest(cls, marks: Marks, num_classes: int) -> "MarkList":
        """Return the marks of an exported file."""
        return cls(
            tuple(mark.name for mark in marks.marks),
            tuple(mark.part for mark in marks.marks),
            np.array([mark.located for mark in marks.marks]),
            read_table(marks.table, num_classes, marks.num_marks),
        )

    def typical(self, classes: Sequence[int] | Ints) -> Booleans:
        """Return which marks are typical of classes, (n,) → (n, A); one that is unknown is not."""
        return np.asarray(self.table[classes] >= TYPICAL)

    def difference(self, first: int | Ints, second: int | Ints) -> Floats:
        """Return how much more typical of one class than of another each mark is; an unknown share is 0.

        Args:
            first: a class, or those of n photos, (n,).
            second: likewise.

        Returns:
            (A,), or (n, A).
        """
        return np.asarray(np.nan_to_num(self.table[first]) - np.nan_to_num(self.table[second]))


@dataclass(frozen=True, eq=False)
class MarkAnswer:
    """What a network answers of the marks of a few photos.

    Attributes:
        seen: calibrated probability that each mark is seen, (n, A).
        maps: where each mark is read, ≥ 0, on a regular grid over the input, (n, A, h, w).
        ranked: the marks of the first ranks for the likeliest class against the next, (n, R).
    """

    seen: Floats
    maps: Floats
    ranked: Ints


@dataclass(frozen=True, eq=False)
class Spots:
    """Where maps are highest, and their values at the photos' parts.

    Attributes:
        peaks: centre (x, y) of the highest cell, pixels of the input, (n, A, 2); NaN of a map of zeros. A is 1 where
            all marks of a photo have the same map.
        values: at the parts, (n, A, P); NaN where a part is not visible.
    """

    peaks: Floats
    values: Floats


@dataclass(frozen=True, eq=False)
class Readings:
    """What is kept of the marks of n photos.

    Attributes:
        seen: calibrated probability that each mark is seen, (n, A).
        spots: where each mark is read.
        contrast: how much the likeliest class and the next may be expected to differ at each place, (n, h, w): see
            `expected_difference`.
        ranked: the marks of the first ranks for the likeliest class against the next, (n, R).
    """

    seen: Floats
    spots: Spots
    contrast: Floats
    ranked: Ints


def read(
    answer: MarkAnswer, logits: Floats, marks: MarkList, annotations: Sequence[Annotation], parts: int, size: int
) -> Readings:
    """Return what is kept of the marks of a few photos.

    Args:
        answer: of the network.
        logits: of the same photos, (n, K).
        marks: of the network.
        annotations: what is known of the photos.
        parts: P, of the data set.
        size: side of the input, pixels.
    """
    order = np.argsort(-logits, axis=1, kind="stable")
    differences = np.abs(marks.difference(order[:, 0], order[:, min(1, order.shape[1] - 1)]))
    contrast = expected_difference(answer.maps, differences, marks)
    return Readings(answer.seen, spots_of(answer.maps, points_of(annotations, parts), size), contrast, answer.ranked)


def expected_difference(maps: Floats, differences: Floats, marks: MarkList) -> Floats:
    """Return how much two classes may be expected to differ at each place: a map composed of marks alone.

    It is the mean of the parts' differences, weighted by how surely each part is there. A part differs by its mark that
    differs most. Where no part is, nothing differs.

    Args:
        maps: of the marks, (n, A, h, w).
        differences: of the two classes in each mark, (n, A).
        marks: their parts, and which are located; the others are left out.
    """
    places, by_part = [], []
    for part in dict.fromkeys(name for name, located in zip(marks.parts, marks.located, strict=True) if located):
        own = [index for index, name in enumerate(marks.parts) if name == part]
        places.append(np.nan_to_num(maps[:, own]).max(axis=1))
        by_part.append(differences[:, own].max(axis=1))
    if not places:
        return np.zeros((len(maps), *maps.shape[2:]), np.float32)
    there = np.stack(places, axis=1)
    there /= np.maximum(there.sum(axis=(2, 3), keepdims=True), np.finfo(np.float32).tiny)
    expected = np.einsum("np,nphw->nhw", np.stack(by_part, axis=1), there) / (there.sum(axis=1) + FOREGROUND)
    return np.asarray(expected, np.float32)


def joined_readings(parts: Sequence[Readings]) -> Readings:
    """Return the readings of all photos, from those of some of them."""
    spots = Spots(*(np.concatenate([getattr(part.spots, name) for part in parts]) for name in ("peaks", "values")))
    rest = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("seen", "contrast", "ranked")}
    return Readings(spots=spots, **rest)


def points_of(annotations: Sequence[Annotation], parts: int) -> Floats:
    """Return where the parts of photos are, pixels of the input, (n, P, 2); NaN where one is not visible.

    Parts outside the input are among them: a map that does not show them misses them.
    """
    places = np.full((len(annotations), parts, 2), np.nan)
    for index, known in enumerate(annotations):
        for point in (*known.parts, *known.beyond):
            places[index, point.part] = point.x, point.y
    return places


def shown_of(points: Floats) -> Booleans:
    """Return which parts are visible, (…, P, 2) → (…, P)."""
    return np.asarray(np.isfinite(points).all(axis=-1))


def spots_of(maps: Floats, points: Floats, size: int) -> Spots:
    """Return where maps are highest, and their values at points.

    Args:
        maps: (n, A, h, w), any grid; one that is not finite counts as zeros.
        points: pixels of the input, (n, P, 2); NaN where there is none.
        size: side of the input, pixels.
    """
    height, width = maps.shape[2:]
    flat = np.nan_to_num(maps.reshape(*maps.shape[:2], -1), posinf=0.0)
    rows, columns = np.divmod(flat.argmax(axis=2), width)
    peaks = np.stack([(columns + 0.5) * size / width, (rows + 0.5) * size / height], axis=2)
    peaks[flat.max(axis=2) <= 0] = np.nan
    values = np.full((*maps.shape[:2], points.shape[1]), np.nan, dtype=np.float32)
    for index, places in enumerate(points):
        visible = shown_of(places)
        x, y = places[visible].T
        values[index, :, visible] = value_at(flat[index].reshape(maps.shape[1:]), x, y, size).T
    return Spots(peaks.astype(np.float32), values)
