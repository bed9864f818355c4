"""Evidence in place: does the place where a mark was read carry the decision for its class?

Photos that are named rightly; A is the class, B the next likely one. The mark is the first in the graph's own order
that is typical of A: surely seen, and in favour of A against B. Its place is blurred, and, apart from that, an equal
disc at another visible part that does not overlap it: the margin of A's logit over B's must fall more for the first.
Other places stand beside it: the highest of Grad-CAM and of the contrast map, and the middle of the true box.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from training.evaluation.figures import Figure, mean, share
from training.evaluation.maps.regions import Floats
from training.evaluation.marks.blur import Ask, Scene, Trial, ask_blurred, margins
from training.evaluation.marks.readings import MarkList
from training.evaluation.scores import Ints

SEED = 0
"""Of which other part is blurred."""


@dataclass(frozen=True, eq=False)
class _Pair:
    row: str
    named: Trial
    other: Trial


def likeliest_other(logits: Floats, labels: Ints) -> Ints:
    """Return the likeliest class that is not the photo's own, (n,)."""
    rest = np.array(logits, dtype=np.float64)
    rest[np.arange(len(rest)), labels] = -np.inf
    return np.asarray(rest.argmax(axis=1))


def chosen_marks(ranked: Ints, marks: MarkList, first: Ints, second: Ints) -> Ints:
    """Return the first of ranked marks that is typical of one class and speaks for it, (n,): −1 where none does.

    One that is not located names no place, and is passed over.

    Args:
        ranked: marks by rank, (n, R).
        marks: of the network.
        first: a class of each photo, (n,); the mark is typical of it.
        second: another, (n,).
    """
    suits = marks.typical(first) & marks.located & (marks.difference(first, second) > 0)
    suited = np.take_along_axis(suits, ranked, axis=1)
    chosen = np.take_along_axis(ranked, suited.argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.where(suited.any(axis=1), chosen, -1)


def evidence_figures(
    ask: Ask,
    image_of: Callable[[int], Tensor],
    scenes: Sequence[Scene],
    places: Mapping[str, Floats],
    logits: Floats,
    labels: Ints,
    visible: bool = False,
) -> dict[str, Figure]:
    """Return of each row of places the share of photos in which it costs more than another part, by JSON name.

    Args:
        ask: the network.
        image_of: from a photo's index to its pixels, uint8 (3, S, S).
        scenes: the photos; those that are not named rightly do not count.
        places: row → a place of every photo of the evaluation, (n, 2); NaN where there is none.
        logits: of every photo, (n, K).
        labels: true classes, (n,).
        visible: show progress.

    Returns:
        `evidence_in_place`, and `…_ROW` for the rows after the first: that share. `evidence_margin` likewise: mean
        over photos of how much further the margin falls, units of the logit.
    """
    right = logits.argmax(axis=1) == labels
    pairs = [pair for scene in scenes if right[scene.index] for pair in _pairs(scene, places)]
    if not pairs:
        return {}
    trials = [trial for pair in pairs for trial in (pair.named, pair.other)]
    of_trial = np.array([trial.scene.index for trial in trials])
    first, second = labels[of_trial], likeliest_other(logits, labels)[of_trial]
    blurred, _ = ask_blurred(ask, image_of, trials, visible)
    falls = margins(logits[of_trial], first, second) - margins(blurred, first, second)
    further = (falls[::2] - falls[1::2]).astype(np.float64)
    figures: dict[str, Figure] = {}
    for number, row in enumerate(places):
        of_row = further[[pair.row == row for pair in pairs]]
        if not len(of_row):
            continue
        name = f"_{row}" if number else ""
        figures |= {f"evidence_in_place{name}": share(of_row > 0), f"evidence_margin{name}": mean(of_row)}
    return figures


def _pairs(scene: Scene, places: Mapping[str, Floats]) -> list[_Pair]:
    """Return the place of each row with another part of the photo; none where no part lies apart from it."""
    found = []
    for row, of_photos in places.items():
        place = of_photos[scene.index][None]
        apart = np.flatnonzero(scene.apart(place))
        if len(apart):
            other = np.random.default_rng((SEED, scene.index)).choice(apart)
            found.append(_Pair(row, Trial(scene, place), Trial(scene, scene.points[other][None])))
    return found
