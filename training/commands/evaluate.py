"""`fieldmark-train evaluate`: a run, or an exported file, on the photos of a part → figures, tables, a report."""

import hashlib
import json
import platform
import time
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from model.files import write_whole
from training.checkpoint import SELECTED
from training.commands.photos import Photos
from training.commands.question import Question, answers, asker, has_held_out, has_marks, network_of
from training.data.samples import spread
from training.errors import TrainingError
from training.evaluation.classification import class_rows, confused_pairs
from training.evaluation.evaluate import Evaluation, evaluate_file, part_of
from training.evaluation.figures import Figure
from training.evaluation.images import as_csv, as_parquet, image_columns
from training.evaluation.maps.looking import moved
from training.evaluation.mark_tables import MarkResult, mark_result
from training.evaluation.predictors import pair_maps
from training.evaluation.report.card import summary, write_card
from training.evaluation.report.page import Contents, write_report
from training.evaluation.tables import MapRow, Value, figures_of, is_located, map_rows
from training.evaluation.unknown import UnknownResult, photos_in, unknown_results

PHOTOS_OF_EVERY_LAYER = 200
"""Photos on which the earlier layers of a file are measured: their gradients take ten times as long as the rest."""


@dataclass(frozen=True, eq=False)
class Result:
    """What was found.

    Attributes:
        question: that was asked.
        evaluation: the answers for every photo.
        figures: by their names in JSON.
        rows: the table of maps; empty where nothing is known of where things are.
        marks: what was found of the marks; None where the model has none.
        looking: how far beside its centre each layer's cells look, pixels; None where that was not measured.
        unknown: what was found of photos of unknown things, folder by folder.
        provenance: what makes the figures repeatable.
    """

    question: Question
    evaluation: Evaluation
    figures: dict[str, Value]
    rows: list[MapRow]
    marks: MarkResult | None
    looking: dict[str, dict[str, Figure]] | None
    unknown: list[UnknownResult]
    provenance: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints; a figure is `{"value", "low", "high", "n"}`, a 95% interval."""
        asked = self.question
        found: dict[str, Any] = {"model": str(asked.model), "dataset": asked.dataset.name, "part": asked.part}
        found |= {name: _plain(value) for name, value in self.figures.items()}
        if asked.dataset.skipped:
            found["skipped_damaged"] = asked.dataset.skipped
        tables = {"maps": [row.to_dict() for row in self.rows]} | ({} if self.marks is None else self.marks.to_dict())
        if self.looking is not None:
            tables["looking"] = [
                {"layer": layer, **{axis: figure.to_dict() for axis, figure in offset.items()}}
                for layer, offset in self.looking.items()
            ]
        if self.unknown:
            tables["unknown"] = [one.to_dict() for one in self.unknown]
        return found | tables | {"provenance": self.provenance}


def evaluate(asked: Question) -> Result:
    """Return the figures of a model on the photos of a part.

    Raises:
        DatasetError: the part is empty, or the data set has a class that the model does not know.
        ManifestError: the file has no manifest.
        TrainingError: what is asked for needs an exported file, or marks.
    """
    if asked.placings and not asked.is_file:
        raise TrainingError(f"{asked.model} does not say where its cells look: export it, and place the file's maps")
    if asked.blur and not has_marks(asked):
        raise TrainingError(f"{asked.model} has no marks whose places could be blurred")
    unknown = [photos_in(folder) for folder in asked.unknown]  # a wrong folder is refused before the work
    evaluation = answers(asked, part_of(asked.dataset, asked.recipe, asked.part))
    located = is_located(evaluation)
    held_out = None
    if located and has_held_out(asked):
        held_out = answers(asked, part_of(asked.dataset, asked.recipe, "held-out"))
    earlier = None
    if located and asked.is_file:
        samples = spread(part_of(asked.dataset, asked.recipe, asked.part), PHOTOS_OF_EVERY_LAYER)
        earlier = evaluate_file(asked.model, asked.dataset, samples, asked.workers, asked.visible, every_layer=True)
    network = network_of(asked) if asked.sanity or asked.placings else None
    photos = Photos(evaluation, asked.dataset.banner, asked.visible)
    further = {"random_weights": photos.random_weights(network)} if asked.sanity and network and located else {}
    looking = None
    if asked.placings:
        looking = photos.looking(network, asked.placings) if network is not None else {}
    centres = None if looking is None else moved(evaluation.centres, looking)
    rows = map_rows(evaluation, held_out, earlier, further, looking=centres)
    figures = figures_of(evaluation, rows)
    marks = mark_result(evaluation)
    if marks is not None and asked.blur:
        marks = photos.blur(asker(asked), marks, asked.blur)
    if marks is not None:
        figures |= marks.figures
    if asked.faithfulness:
        figures |= photos.faithfulness(asked.model, asked.faithfulness)
    if asked.sanity and network is not None:
        figures |= photos.sanity(network, asked.sanity)
    found = unknown_results(evaluation, asked.unknown, [answers(asked, samples) for samples in unknown])
    return Result(asked, evaluation, figures, rows, marks, looking, found, provenance(asked))


def write(result: Result, out: Path) -> None:
    """Write `metrics.json`, `predictions.csv`, `predictions.parquet` and `report.html` into a folder."""
    asked, evaluation = result.question, result.evaluation
    predicted = evaluation.prediction.logits.argmax(axis=1)
    classes = class_rows(predicted, evaluation.labels, evaluation.names)
    pairs = confused_pairs(predicted, evaluation.labels, evaluation.names)
    tables = {
        "classes": [
            {"label": row.label, "recall": row.recall.to_dict(), "precision": row.precision.to_dict(), "f1": row.f1}
            for row in classes
        ],
        "confused": [vars(pair) for pair in pairs],
    }
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "metrics.json", json.dumps(result.to_dict() | tables, indent=2) + "\n")
    columns = image_columns(evaluation, asked.folder)
    write_whole(out / "predictions.csv", as_csv(columns))
    write_whole(out / "predictions.parquet", as_parquet(columns))
    contents = Contents(
        title=f"{asked.model.name} on {asked.dataset.name}, {asked.part}",
        evaluation=evaluation,
        figures=result.figures,
        rows=result.rows,
        marks=result.marks,
        unknown=result.unknown,
        pair_maps=partial(pair_maps, asked.model),
        provenance=result.provenance,
        recipe=None if asked.recipe is None else asked.recipe.to_dict(),
        banner=asked.dataset.banner,
    )
    write_report(contents, out / "report.html")


def add_to_card(result: Result, card: Path) -> None:
    """Write the summary into a model card.

    Raises:
        TrainingError: it is not UTF-8, or its comments do not make one pair.
        WriteError: it could not be written.
    """
    asked = result.question
    photos = f"{len(result.evaluation.samples)} photos of {asked.dataset.name}, part `{asked.part}`"
    write_card(card, summary(result.figures, result.rows, result.provenance, photos, result.marks, result.unknown))


def provenance(asked: Question) -> dict[str, Any]:
    """Return what makes a figure repeatable: hash of the model, commit, date, command, versions."""
    path = asked.model if asked.is_file else asked.model / SELECTED if asked.model.is_dir() else asked.model
    versions = {"python": platform.python_version()}
    for package in ("torch", "onnxruntime", "onnxruntime-gpu", "numpy", "pillow"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "commit": asked.commit,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": asked.command,
        "versions": versions,
    }


def as_text(result: Result) -> dict[str, str]:
    """Return the figures as a person reads them, by name."""
    asked = result.question
    found = {"model": str(asked.model), "dataset": asked.dataset.name, "part": asked.part}
    shown_figures = result.figures | {name: each for one in result.unknown for name, each in one.figures.items()}
    for name, value in shown_figures.items():
        found[name] = f"{value:.5g}" if isinstance(value, float) else shown(value)
    if asked.dataset.skipped:
        found["skipped_damaged"] = str(asked.dataset.skipped)
    return found


def shown(figure: Figure) -> str:
    """Return a figure with its interval and the number of photos."""
    return f"{figure.value:.4f}  ({figure.low:.4f} … {figure.high:.4f}, n = {figure.n})"


def _plain(value: Value) -> object:
    return value.to_dict() if isinstance(value, Figure) else value
