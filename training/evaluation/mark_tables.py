"""The figures of an evaluation's marks by name, and their tables: where they are read, and what blurring costs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from training.evaluation.evaluate import Evaluation
from training.evaluation.figures import Figure
from training.evaluation.maps.annotations import whole_boxes_of
from training.evaluation.maps.regions import Floats
from training.evaluation.marks.auroc import auroc_figures
from training.evaluation.marks.blur import Ask, scenes_of
from training.evaluation.marks.evidence import chosen_marks, evidence_figures, likeliest_other
from training.evaluation.marks.places import LOCATED, MARKS, PlaceRow, chance_spots, place_rows
from training.evaluation.marks.readings import Spots, points_of, spots_of
from training.evaluation.marks.sight import SightRow, sight_rows

HEADLINES = {(MARKS, ""): "", (MARKS, LOCATED): f"_{LOCATED}", ("centred_gaussian", ""): "_centred_gaussian"}
"""Lines of the table of places whose figures stand at the top: row and part → end of the name in JSON."""


@dataclass(frozen=True)
class MarkResult:
    """What was found of the marks.

    Attributes:
        figures: by their names in JSON.
        places: where their maps point; empty where no mark's part is annotated.
        sight: what blurring a part costs its marks; empty where nothing was blurred.
    """

    figures: Mapping[str, Figure]
    places: Sequence[PlaceRow] = ()
    sight: Sequence[SightRow] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return the tables as they stand in JSON."""
        return {
            "mark_places": [row.to_dict() for row in self.places],
            "mark_sight": [row.to_dict() for row in self.sight],
        }


def mark_result(evaluation: Evaluation) -> MarkResult | None:
    """Return the figures of the marks that need no further run of the network; None where it has no marks.

    `mark_auroc`, `…_product` (probabilities times the table) and `…_minus_product`: see `auroc`. `mark_hits` and
    `mark_auc`, `…_centred_gaussian`, and `…_located` where the network calls some marks not located: see `places`.
    """
    marks, readings = evaluation.marks, evaluation.readings
    if marks is None or readings is None:
        return None
    figures = auroc_figures(readings.seen, evaluation.probabilities, marks.table, evaluation.labels)
    points, sides, middles = _places(evaluation)
    size, prediction = evaluation.resize.crop, evaluation.prediction
    rows = {MARKS: readings.spots}
    for name, layers in (("gradcam", prediction.gradcam), ("contrast", prediction.contrast)):
        rows[name] = spots_of(_drawn(evaluation, layers)[:, None], points, size)
    grid = (readings.contrast.shape[1], readings.contrast.shape[2])
    rows |= chance_spots(points, middles, grid, size)
    places = place_rows(rows, marks, marks.typical(evaluation.labels), points, sides, evaluation.parts)
    for row in places:
        if (row.name, row.part) in HEADLINES:
            end = HEADLINES[row.name, row.part]
            figures |= {f"mark_{name}{end}": figure for name, figure in row.figures.items()}
    return MarkResult(figures, places)


def blur_result(
    evaluation: Evaluation,
    found: MarkResult,
    ask: Ask,
    image_of: Callable[[int], Tensor],
    chosen: Sequence[int],
    visible: bool = False,
) -> MarkResult:
    """Return the result with what blurring costs, on some of the photos.

    `evidence_in_place`, `evidence_margin` and their rows: see `evidence`. `seen_sees` and `seen_sees_product`: see
    `sight`.

    Args:
        evaluation: the answers.
        found: of `mark_result`.
        ask: the network.
        image_of: from a photo's index to its pixels, uint8 (3, S, S).
        chosen: indices of the photos.
        visible: show progress.
    """
    marks, readings = evaluation.marks, evaluation.readings
    if marks is None or readings is None:
        return found
    logits, labels = evaluation.prediction.logits, evaluation.labels
    points, sides, middles = _places(evaluation)
    scenes = scenes_of(chosen, points, sides, evaluation.resize.crop)
    first = chosen_marks(readings.ranked, marks, labels, likeliest_other(logits, labels))
    named = readings.spots.peaks[np.arange(len(first)), first]
    named[first < 0] = np.nan
    rows = {MARKS: named, "gradcam": _peaks(evaluation, evaluation.prediction.gradcam)}
    rows |= {"contrast": _peaks(evaluation, evaluation.prediction.contrast), "box_centre": middles}
    figures = dict(found.figures) | evidence_figures(ask, image_of, scenes, rows, logits, labels, visible)
    sight = sight_rows(
        ask,
        image_of,
        scenes,
        marks,
        evaluation.parts,
        labels,
        (logits, readings.seen),
        evaluation.temperature,
        visible,
    )
    if sight:
        figures |= {"seen_sees": sight[0].figures["seen"], "seen_sees_product": sight[0].figures["product"]}
    return MarkResult(figures, found.places, sight)


def _places(evaluation: Evaluation) -> tuple[Floats, Floats, Floats]:
    """Return where the parts are, (n, P, 2), and the sides and the middles of the objects' boxes, (n, 2) both."""
    points = points_of(evaluation.annotations, len(evaluation.parts))
    boxes = whole_boxes_of(evaluation.annotations)
    return points, boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2


def _peaks(evaluation: Evaluation, layers: Mapping[str, Floats]) -> Floats:
    """Return where the last layer's maps are highest, (n, 2); NaN of a map of zeros."""
    maps = _drawn(evaluation, layers)
    nowhere = np.zeros((len(maps), 0, 2))
    found: Spots = spots_of(maps[:, None], nowhere, evaluation.resize.crop)
    return found.peaks[:, 0]


def _drawn(evaluation: Evaluation, layers: Mapping[str, Floats]) -> Floats:
    """Return the last layer's maps as the service draws them: else they would lose to the marks by their grid alone."""
    return evaluation.placed(next(iter(layers.values())))
