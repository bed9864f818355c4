"""The figures of an evaluation by name, and its table of maps: every kind of map, every layer, beside chance."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from model.contract.placing import Centres, at_centres
from training.evaluation.classification import classification_figures
from training.evaluation.evaluate import Evaluation
from training.evaluation.figures import Figure, mean, share, statistic
from training.evaluation.maps.annotations import boxes_of
from training.evaluation.maps.chance import chance_maps
from training.evaluation.maps.localisation import best_threshold, localised, max_box_accuracy, overlaps
from training.evaluation.maps.parts import contrast_score, pointed_part
from training.evaluation.maps.regions import Floats
from training.evaluation.scores import accuracy_figures, expected_calibration_error
from training.evaluation.sets import set_figures

SHARES = ("pointing", "pointing_tolerant", "part_pointing", "box_acc")
"""Measures that are yes or no for a photo."""
BOX_OVERLAP = 0.5
"""Least intersection over union of BoxAcc."""

HEADLINES = {
    "pointing_game": ("gradcam", "pointing"),
    "centred_gaussian": ("centred_gaussian", "pointing"),
    "pointing_game_attention": ("attention", "pointing"),
    "energy_gradcam": ("gradcam", "energy"),
    "energy_attention": ("attention", "energy"),
    "energy_gaussian": ("centred_gaussian", "energy"),
    "max_box_acc_v2": ("gradcam", "max_box_acc_v2"),
    "part_pointing": ("gradcam", "part_pointing"),
    "contrast_score": ("contrast", "contrast"),
    "contrast_score_of_marks": ("marks_contrast", "contrast"),
    "contrast_gaussian": ("centred_gaussian", "contrast"),
}
"""Figures of maps that stand at the top: name in JSON → kind of map (at the last layer), and measure."""

COMPOSED = "marks_contrast"
"""The map of "A, not B" that the marks compose."""
CONTRASTS = ("contrast", COMPOSED)
"""Maps of two classes: they follow the parts in which these differ, not the object."""
CENTRES, EVEN, LOOKING = "centres", "even", "looking"
"""Ends of the names of maps that are placed by the centres of their cells' windows, evenly, or where these look."""

Value = Figure | float


@dataclass(frozen=True)
class MapRow:
    """A line of the table of maps.

    Attributes:
        name: what the map is: `gradcam`, `contrast`, `attention`, or a chance row.
        layer: it is of; empty for maps that have none.
        photos: `all`, or only those classified `right` or `wrong`.
        figures: by measure.
    """

    name: str
    layer: str
    photos: str
    figures: Mapping[str, Figure]

    def to_dict(self) -> dict[str, Any]:
        """Return the line as it stands in JSON."""
        figures = {name: figure.to_dict() for name, figure in self.figures.items()}
        return {"map": self.name, "layer": self.layer, "photos": self.photos, **figures}


def figures_of(evaluation: Evaluation, rows: list[MapRow]) -> dict[str, Value]:
    """Return the figures that stand at the top, by their names in JSON; those of maps only where they could be taken.

    Args:
        evaluation: the answers.
        rows: of `map_rows`.
    """
    logits, labels = evaluation.prediction.logits, evaluation.labels
    figures: dict[str, Value] = {"images": float(len(labels))}
    figures |= classification_figures(evaluation.probabilities, labels)
    figures["ece_uncalibrated"] = statistic(lambda i: expected_calibration_error(logits[i], labels[i]), len(labels))
    figures["temperature"] = evaluation.temperature
    if evaluation.sets is not None:
        figures |= set_figures(evaluation.sets, evaluation.probabilities, labels)
    best = {row.name: row.figures for row in reversed(rows) if row.photos == "all"}  # the last layer comes first
    for name, (kind, measure) in HEADLINES.items():
        if measure in best.get(kind, {}):
            figures[name] = best[kind][measure]
    areas = [region.mean() for region in _regions(evaluation) if region is not None]
    if areas:
        last = next(iter(evaluation.prediction.gradcam.values()))
        figures |= {"boxes": float(len(areas)), "box_area": mean(areas), "zero_maps": share(_empty(last))}
    return figures


def photo_measures(evaluation: Evaluation) -> dict[str, Floats]:
    """Return the headline measures as a value per photo, (n,), NaN where it does not count; those that were taken.

    Without boxes drawn around maps: for comparisons of many runs.
    """
    last = next(iter(evaluation.prediction.gradcam), "")
    kinds = {key[0]: maps for key, maps in _maps(evaluation) if key[1] in ("", last)}
    measured = {kind: _measured(evaluation, (kind, last), maps, {}, boxes=False) for kind, maps in kinds.items()}
    return {
        name: measured[kind][measure]
        for name, (kind, measure) in HEADLINES.items()
        if measure in measured.get(kind, {})
    }


def values_of(evaluation: Evaluation, measures: Mapping[str, Floats]) -> dict[str, float]:
    """Return the figures without intervals, for comparisons of many runs.

    Args:
        evaluation: the answers.
        measures: of `photo_measures`.
    """
    values = accuracy_figures(evaluation.prediction.logits, evaluation.labels, evaluation.temperature)
    return values | {name: float(np.nanmean(photos)) for name, photos in measures.items()}


def is_located(evaluation: Evaluation) -> bool:
    """Return whether it is known of any photo where its object or a part is."""
    size = evaluation.resize.crop
    return any(known.parts or known.region(size) is not None for known in evaluation.annotations)


def map_rows(
    evaluation: Evaluation,
    held_out: Evaluation | None = None,
    every_layer: Evaluation | None = None,
    further: Mapping[str, Floats] | None = None,
    *,
    looking: Mapping[str, Centres] | None = None,
) -> list[MapRow]:
    """Return the table of maps; empty where nothing is known of where things are.

    Args:
        evaluation: the answers, with maps of the last layer.
        held_out: those for photos that were held out in training: BoxAcc's threshold is chosen on them, a kind of map
            at a time; without them there is no BoxAcc.
        every_layer: answers for some of the photos with maps of every layer, of which the earlier ones are measured.
        further: maps of the last layer's cells, of the same photos, by the name of their line, for example of a network
            with random weights.
        looking: where trained cells look, by layer, as far as it was measured. With it the maps of layers whose cells'
            centres are known are measured in every way: side by side, by the centres, and there. None: as drawn alone.
    """
    if not is_located(evaluation):
        return []
    thresholds = {} if held_out is None else _thresholds(held_out)
    rows = [
        row
        for key, maps in _maps(evaluation)
        for row in _rows(evaluation, key, _measured(evaluation, key, maps, thresholds))
    ]
    for name, maps in (further or {}).items():
        rows += _rows(evaluation, (name, ""), _measured(evaluation, (name, ""), evaluation.placed(maps), {}))
    done = {(row.name, row.layer) for row in rows}
    if every_layer is not None:
        for key, maps in _maps(every_layer):
            if key[1] and key not in done:
                rows += _rows(every_layer, key, _measured(every_layer, key, maps, {}))
    if looking is not None:
        for answers in (evaluation, every_layer):
            if answers is not None:
                done = {(row.name, row.layer) for row in rows}
                rows += [row for row in _placed_otherwise(answers, looking) if (row.name, row.layer) not in done]
    return rows


def _rows(evaluation: Evaluation, key: tuple[str, str], measured: Mapping[str, Floats]) -> list[MapRow]:
    """Return the lines of one kind of map: of all photos, of those classified rightly, and of the others."""
    right = evaluation.right
    subsets = {"all": np.ones_like(right), "right": right, "wrong": ~right}
    rows = [MapRow(*key, photos, _figures(measured, chosen)) for photos, chosen in subsets.items()]
    return [row for row in rows if row.figures]


def _maps(evaluation: Evaluation) -> Iterator[tuple[tuple[str, str], Floats]]:
    """Yield every kind of map with its layer, placed as the service draws it."""
    for key, maps, layer in _cells(evaluation):
        yield key, evaluation.placed(maps, layer)
    if evaluation.readings is not None:
        yield (COMPOSED, ""), evaluation.readings.contrast
    last = next(iter(evaluation.prediction.gradcam.values()))
    for name, maps in chance_maps(len(last), (last.shape[1], last.shape[2]), evaluation.resize.crop).items():
        yield (name, ""), maps


def _cells(evaluation: Evaluation) -> Iterator[tuple[tuple[str, str], Floats, str]]:
    """Yield every kind of map that the network makes, cell by cell, and the layer whose cells they are."""
    prediction = evaluation.prediction
    for layer, maps in prediction.gradcam.items():
        yield ("gradcam", layer), maps, layer
    for layer, maps in prediction.contrast.items():
        yield ("contrast", layer), maps, layer
    if prediction.attention is not None:
        # The attention is at least one half everywhere: what counts is how it rises above its own minimum.
        above = prediction.attention - prediction.attention.min(axis=(1, 2), keepdims=True)
        yield ("attention", ""), above, next(iter(prediction.gradcam))


def _placed_otherwise(evaluation: Evaluation, looking: Mapping[str, Centres]) -> list[MapRow]:
    """Return the lines of the maps placed in the other ways, and of the differences from the way they are drawn."""
    size, rows = evaluation.resize.crop, []
    drawn = CENTRES if evaluation.placed_by_centres else EVEN
    for (name, layer), cells, of_cells in _cells(evaluation):
        if of_cells not in evaluation.centres:
            continue
        places = {EVEN: None, CENTRES: evaluation.centres[of_cells], LOOKING: looking.get(of_cells)}
        maps = {way: at_centres(cells, centres, size) for way, centres in places.items() if centres is not None}
        maps[EVEN] = cells
        before = _measured(evaluation, (name, layer), maps.pop(drawn), {})
        for way, placed in maps.items():
            after = _measured(evaluation, (name, layer), placed, {})
            everyone = np.ones(len(placed), dtype=bool)
            rows.append(MapRow(f"{name}_{way}", layer, "all", _figures(after, everyone)))
            rows.append(MapRow(f"{name}_{way}_minus_{name}", layer, "all", _differences(before, after)))
    return rows


def _differences(before: Mapping[str, Floats], after: Mapping[str, Floats]) -> dict[str, Figure]:
    """Return how much the measures of the same photos differ."""
    found = {measure: mean(after[measure] - before[measure]) for measure in after if measure != "overlap"}
    if "overlap" in after:
        known = np.isfinite(after["overlap"][:, 0])
        of_both = partial(_box_difference, before["overlap"][known], after["overlap"][known])
        found["max_box_acc_v2"] = statistic(of_both, int(known.sum()), (-1.0, 1.0))
    return found


def _box_difference(before: Floats, after: Floats, chosen: npt.NDArray[np.integer]) -> float:
    return max_box_accuracy(after, chosen) - max_box_accuracy(before, chosen)


def _measured(
    evaluation: Evaluation,
    key: tuple[str, str],
    maps: Floats,
    thresholds: Mapping[tuple[str, str], int],
    *,
    boxes: bool = True,
) -> dict[str, Floats]:
    """Return every measure of one kind of map, a value a photo; NaN where a photo does not count.

    Args:
        evaluation: the answers.
        key: kind of map, and layer.
        maps: (n, h, w).
        thresholds: of BoxAcc.
        boxes: draw boxes around the maps, too, which takes longest.
    """
    size, annotations = evaluation.resize.crop, evaluation.annotations
    measured: dict[str, Floats] = {}
    name, _ = key
    if name not in CONTRASTS:
        measured |= localised(maps, _regions(evaluation))
        overlap = overlaps(maps, boxes_of(annotations), size) if boxes and _has_boxes(key, evaluation) else None
        if overlap is not None:
            measured["overlap"] = overlap
            if key in thresholds:
                best = overlap[:, thresholds[key]]
                measured["box_acc"] = np.where(np.isnan(best), np.nan, best >= BOX_OVERLAP)
        pairs = zip(maps, annotations, strict=True)
        measured["part_pointing"] = np.array([pointed_part(m, known.parts, known.box, size) for m, known in pairs])
    # One pixel ranks parts only where it touches one: three photos of 911.
    if evaluation.part_differences is not None and name != "centre":
        measured["contrast"] = _contrasts(evaluation, evaluation.part_differences, maps)
    return {name: values for name, values in measured.items() if np.isfinite(values).any()}


def _contrasts(evaluation: Evaluation, differences: Floats, maps: Floats) -> Floats:
    """Return the contrast score of each photo that is classified rightly, (n,); NaN for the others."""
    size = evaluation.resize.crop
    likeliest = np.argsort(-evaluation.prediction.logits, axis=1, kind="stable")[:, :2]
    scores = np.full(len(maps), np.nan)
    for index in np.flatnonzero(evaluation.right):
        first, second = likeliest[index, 0], likeliest[index, -1]
        scores[index] = contrast_score(
            maps[index], evaluation.annotations[index].parts, differences[first, second], size
        )
    return scores


def _figures(measured: Mapping[str, Floats], chosen: npt.NDArray[np.bool_]) -> dict[str, Figure]:
    """Return the figures of some photos, from a value a photo."""
    figures: dict[str, Figure] = {}
    for name, values in measured.items():
        part = values[chosen]
        if name == "overlap":
            boxed = part[np.isfinite(part[:, 0])]
            if len(boxed):
                figures["max_box_acc_v2"] = statistic(partial(max_box_accuracy, boxed), len(boxed))
            continue
        part = part[np.isfinite(part)]
        if len(part):
            figures[name] = share(part) if name in SHARES else mean(part)
    return figures


def _thresholds(held_out: Evaluation) -> dict[tuple[str, str], int]:
    """Return the threshold of each kind of map at which most boxes of held-out photos are found."""
    boxes = boxes_of(held_out.annotations)
    if not np.isfinite(boxes).any():
        return {}
    size = held_out.resize.crop
    kinds = ((key, maps) for key, maps in _maps(held_out) if _has_boxes(key, held_out))
    return {key: best_threshold(overlaps(maps, boxes, size), BOX_OVERLAP) for key, maps in kinds}


def _has_boxes(key: tuple[str, str], evaluation: Evaluation) -> bool:
    """Return whether boxes are drawn around this kind of map: earlier layers would take minutes and say little."""
    name, layer = key
    return name not in CONTRASTS and layer in ("", next(iter(evaluation.prediction.gradcam)))


def _regions(evaluation: Evaluation) -> list[npt.NDArray[np.bool_] | None]:
    return [annotation.region(evaluation.resize.crop) for annotation in evaluation.annotations]


def _empty(maps: Floats) -> npt.NDArray[np.bool_]:
    return np.asarray(maps.max(axis=(1, 2)) <= 0)
