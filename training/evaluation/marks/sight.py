"""Does *seen* see? With a part blurred, its marks must be less surely seen, and those of other parts must not.

A network that names the class, and says of each mark how typical it is of it, loses all marks alike: its probabilities
times the table stand beside as the baseline, from the same blurred photos.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logit
from torch import Tensor

from model.contract.graph import softmax
from training.evaluation.figures import Figure, mean, share
from training.evaluation.maps.regions import Booleans, Floats
from training.evaluation.marks.auroc import product
from training.evaluation.marks.blur import Ask, Scene, Trial, ask_blurred
from training.evaluation.marks.places import owners, pair_mean
from training.evaluation.marks.readings import MarkList
from training.evaluation.scores import Ints

LEAST = 1e-6
"""Probabilities are kept so far from 0 and 1 before their log-odds are taken."""


@dataclass(frozen=True)
class SightRow:
    """A line of the table of blurred parts.

    Attributes:
        part: that is blurred; empty: all of them.
        figures: `seen`: share of photos whose marks of the part fall more than those of the other parts, in log-odds;
            `fall`: mean of how much more. `product` and `product_fall`: the same of probabilities times the table.
            Of all parts only the shares, whose interval is over photos.
    """

    part: str
    figures: Mapping[str, Figure]

    def to_dict(self) -> dict[str, Any]:
        """Return the line as it stands in JSON."""
        return {"part": self.part, **{name: figure.to_dict() for name, figure in self.figures.items()}}


@dataclass(frozen=True, eq=False)
class _Case:
    """A part of a photo, blurred.

    Attributes:
        part: number among the marks' parts.
        trial: the photo.
        own: marks of the part that are typical of the photo's class, (A,).
        other: such marks of parts that lie apart from it.
    """

    part: int
    trial: Trial
    own: Booleans
    other: Booleans


def sight_rows(
    ask: Ask,
    image_of: Callable[[int], Tensor],
    scenes: Sequence[Scene],
    marks: MarkList,
    parts: Sequence[str],
    labels: Ints,
    before: tuple[Floats, Floats],
    temperature: float,
    visible: bool = False,
) -> list[SightRow]:
    """Return the table of blurred parts: all of them, then part by part; empty where no part can be blurred.

    Counted are visible parts with marks typical of the photo's class, where another part with such marks lies apart:
    its discs overlap none of those that are blurred.

    Args:
        ask: the network.
        image_of: from a photo's index to its pixels, uint8 (3, S, S).
        scenes: the photos.
        marks: of the network.
        parts: names of the P parts.
        labels: true classes of every photo of the evaluation, (n,).
        before: logits, (n, K), and probabilities of the marks, (n, A), of every photo as it is.
        temperature: of the probabilities of classes.
        visible: show progress.
    """
    at = owners(marks.parts, parts)
    named = [part for part in dict.fromkeys(marks.parts) if at[marks.parts.index(part)].any()]
    cases = [case for scene in scenes for case in _cases(scene, marks, at, named, int(labels[scene.index]))]
    if not cases:
        return []
    logits, seen = ask_blurred(ask, image_of, [case.trial for case in cases], visible)
    index = np.array([case.trial.scene.index for case in cases])
    falls = {
        "seen": _log_odds(before[1][index]) - _log_odds(seen),
        "product": _log_odds(product(softmax(before[0][index], temperature), marks.table))
        - _log_odds(product(softmax(logits, temperature), marks.table)),
    }
    numbers = {number: row for row, number in enumerate(dict.fromkeys(index.tolist()))}
    further = {name: np.full((len(numbers), len(named)), np.nan) for name in falls}
    for case, at_photo, *both in zip(cases, index, *falls.values(), strict=True):
        for name, fall in zip(falls, both, strict=True):
            further[name][numbers[at_photo], case.part] = fall[case.own].mean() - fall[case.other].mean()
    return list(_rows(further, named))


def _rows(further: Mapping[str, Floats], named: Sequence[str]) -> Iterator[SightRow]:
    """Yield the lines of the table from how much further each part's marks fall, (photos, parts)."""
    hits = {name: np.where(np.isnan(values), np.nan, values > 0) for name, values in further.items()}
    # A mean over photos and parts: photos are drawn, so that parts of one stay together.
    whole = {name: pair_mean(values) for name, values in hits.items()}
    yield SightRow("", whole)
    for number, part in enumerate(named):
        known = np.isfinite(hits["seen"][:, number])
        if known.any():
            yield SightRow(
                part,
                {
                    "seen": share(hits["seen"][known, number]),
                    "fall": mean(further["seen"][known, number]),
                    "product": share(hits["product"][known, number]),
                    "product_fall": mean(further["product"][known, number]),
                },
            )


def _cases(scene: Scene, marks: MarkList, at: Booleans, named: Sequence[str], label: int) -> Iterator[_Case]:
    """Yield the parts of a photo that can be blurred."""
    typical = marks.typical([label])[0]
    shown = np.isfinite(scene.points).all(axis=1)
    of_part = {part: np.array([one == part for one in marks.parts]) for part in named}
    places = {part: at[members].any(axis=0) & shown for part, members in of_part.items()}
    for number, part in enumerate(named):
        own = of_part[part] & typical
        if not places[part].any() or not own.any():
            continue
        blurred = scene.points[places[part]]
        apart = scene.apart(blurred)
        beside = [other for other in named if other != part and places[other].any() and apart[places[other]].all()]
        other = np.any([of_part[one] & typical for one in beside], axis=0) if beside else np.zeros_like(own)
        if other.any():
            yield _Case(number, Trial(scene, blurred), own, other)


def _log_odds(probabilities: Floats) -> Floats:
    return np.asarray(logit(np.clip(probabilities.astype(np.float64), LEAST, 1 - LEAST)))
