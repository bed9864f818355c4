"""Do the maps find the parts that matter? Maps against the places of parts, and the contrast against a field guide.

The contrast score asks what no box can: where class A was named and not B, does the map of "A, not B" light up the
parts in which A and B differ? How much they differ at a part comes from the table class × attribute alone.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

from training.evaluation.maps.localisation import peak
from training.evaluation.maps.regions import Floats, Point, value_at

LEAST_PARTS = 6
"""Fewest visible parts at which a rank correlation says something."""
REACH = 0.125
"""How near to a part a map's highest cell must lie, as a part of the sides of the object's box: an eighth."""


def pointed_part(values: Floats, points: Sequence[Point], box: Floats, size: int) -> float:
    """Return 1 where the map's highest cell lies within `REACH` of some visible part, else 0; NaN without parts.

    Args:
        values: a map, (h, w).
        points: visible parts.
        box: of the object, (left, top, right, bottom), pixels of the input.
        size: side of the input, pixels.
    """
    if not points or not np.isfinite(box).all():
        return float("nan")
    x, y = peak(values, size)
    reach_x, reach_y = REACH * (box[2] - box[0]), REACH * (box[3] - box[1])
    hit = any(((x - point.x) / reach_x) ** 2 + ((y - point.y) / reach_y) ** 2 <= 1 for point in points)
    return float(hit and values.max() > 0)


def contrast_score(values: Floats, points: Sequence[Point], differences: Floats, size: int) -> float:
    """Return how well a map follows the parts in which two classes differ: Spearman's rank correlation.

    Args:
        values: the map of "A, not B", (h, w).
        points: visible parts.
        differences: how much A and B differ at each part, (P,); NaN where no attribute names a part.
        size: side of the input, pixels.

    Returns:
        In [-1, 1]; NaN with fewer than `LEAST_PARTS` parts that have a difference, or where nothing varies.
    """
    known = [point for point in points if np.isfinite(differences[point.part])]
    if len(known) < LEAST_PARTS:
        return float("nan")
    read = value_at(values, np.array([point.x for point in known]), np.array([point.y for point in known]), size)
    expected = np.array([differences[point.part] for point in known])
    if np.ptp(read) == 0 or np.ptp(expected) == 0:
        return float("nan")
    return float(spearmanr(read, expected).statistic)


def part_differences(table: Floats, attributes: Sequence[str], parts: Sequence[str]) -> Floats:
    """Return how much two classes differ at each part, (K, K, P); NaN where no attribute names the part.

    Attributes come in groups, `group::value` (`has_crown_color::yellow`); a group names a part where the part's word
    is one of its words. Two classes differ in a group by the total variation between the shares of its values, and
    at a part by its group of greatest difference.

    Args:
        table: class × attribute, shares of observers who see it, (K, A).
        attributes: names of the A attributes.
        parts: names of the P parts.
    """
    groups: dict[str, list[int]] = {}
    for index, attribute in enumerate(attributes):
        groups.setdefault(attribute.partition("::")[0], []).append(index)
    variation = {group: _total_variation(table[:, members]) for group, members in groups.items()}
    found = np.full((len(table), len(table), len(parts)), np.nan)
    for number, part in enumerate(parts):
        naming = [values for group, values in variation.items() if word_of(part) in group.split("_")]
        if naming:
            found[:, :, number] = np.max(naming, axis=0)
    return found


def _total_variation(shares: Floats) -> Floats:
    """Return the total variation between the classes' shares of one group, (K, K)."""
    distribution = shares / np.maximum(shares.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    result: Floats = np.abs(distribution[:, None] - distribution[None]).sum(axis=2) / 2
    return result


def word_of(part: str) -> str:
    """Return a part's word as attributes and marks name it: `left wing` → `wing`; CUB calls the beak a bill there."""
    word = part.split()[-1]
    return {"beak": "bill"}.get(word, word)
