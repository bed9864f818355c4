"""`fieldmark-train evaluate`: a run, or an exported file, on the photos of a part → figures, tables, a report."""

import hashlib
import json
import platform
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from model.files import write_whole
from training.checkpoint import SELECTED, load_selected
from training.data.samples import Dataset
from training.errors import DatasetError
from training.evaluation.classification import class_rows, confused_pairs
from training.evaluation.evaluate import Evaluation, evaluate_file, evaluate_run, part_of, spread
from training.evaluation.figures import Figure
from training.evaluation.images import as_csv, as_parquet, image_columns
from training.evaluation.report import write_report
from training.evaluation.tables import MapRow, Value, figures_of, is_located, map_rows
from training.fit.processes import pick_device
from training.recipe import Recipe

PHOTOS_OF_EVERY_LAYER = 200
"""Photos on which the earlier layers of a file are measured: their gradients take ten times as long as the rest."""


@dataclass(frozen=True)
class Question:
    """What is evaluated, and how.

    Attributes:
        model: folder of a run, or an exported file.
        recipe: of the model, which says what was held out; None: unknown.
        dataset: to evaluate on.
        folder: of the data set.
        part: of it: `test`, `held-out` or `all`.
        device: of a run.
        workers: processes that decode photos.
        visible: show progress.
        commit: of this project.
    """

    model: Path
    recipe: Recipe | None
    dataset: Dataset
    folder: Path
    part: str
    device: str
    workers: int
    visible: bool
    commit: str

    @property
    def is_file(self) -> bool:
        """Whether the model is an exported file."""
        return self.model.suffix == ".onnx"


@dataclass(frozen=True, eq=False)
class Result:
    """What was found.

    Attributes:
        question: that was asked.
        evaluation: the answers for every photo.
        figures: by their names in JSON.
        rows: the table of maps; empty where nothing is known of where things are.
    """

    question: Question
    evaluation: Evaluation
    figures: dict[str, Value]
    rows: list[MapRow]

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints; a figure is `{"value", "low", "high", "n"}`, a 95% interval."""
        asked = self.question
        found: dict[str, Any] = {"model": str(asked.model), "dataset": asked.dataset.name, "part": asked.part}
        found |= {name: _plain(value) for name, value in self.figures.items()}
        if asked.dataset.skipped:
            found["skipped_damaged"] = asked.dataset.skipped
        return found | {"maps": [row.to_dict() for row in self.rows], "provenance": provenance(asked)}


def evaluate(asked: Question) -> Result:
    """Return the figures of a model on the photos of a part.

    Raises:
        DatasetError: the part is empty, or the data set has a class that the model does not know.
        ManifestError: the file has no manifest.
    """
    evaluation = _answers(asked, asked.part)
    located = is_located(evaluation)
    held_out = _answers(asked, "held-out") if located and _has_held_out(asked) else None
    earlier = None
    if located and asked.is_file:
        samples = spread(part_of(asked.dataset, asked.recipe, asked.part), PHOTOS_OF_EVERY_LAYER)
        earlier = evaluate_file(asked.model, asked.dataset, samples, asked.workers, asked.visible, every_layer=True)
    rows = map_rows(evaluation, held_out, earlier)
    return Result(asked, evaluation, figures_of(evaluation, rows), rows)


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
    title = f"{asked.model.name} on {asked.dataset.name}, {asked.part}"
    write_report(evaluation, result.figures, title, out / "report.html", asked.dataset.banner)


def provenance(asked: Question) -> dict[str, Any]:
    """Return what makes a figure repeatable: hash of the model, commit, date, versions."""
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
        "versions": versions,
    }


def as_text(result: Result) -> dict[str, str]:
    """Return the figures as a person reads them, by name."""
    asked = result.question
    found = {"model": str(asked.model), "dataset": asked.dataset.name, "part": asked.part}
    for name, value in result.figures.items():
        found[name] = f"{value:.5g}" if isinstance(value, float) else shown(value)
    if asked.dataset.skipped:
        found["skipped_damaged"] = str(asked.dataset.skipped)
    return found


def shown(figure: Figure) -> str:
    """Return a figure with its interval and the number of photos."""
    return f"{figure.value:.4f}  ({figure.low:.4f} … {figure.high:.4f}, n = {figure.n})"


def _answers(asked: Question, part: str) -> Evaluation:
    samples = part_of(asked.dataset, asked.recipe, part)
    if asked.is_file:
        return evaluate_file(asked.model, asked.dataset, samples, asked.workers, asked.visible)
    selected = load_selected(asked.model)
    return evaluate_run(selected, asked.dataset, samples, pick_device(asked.device), asked.workers, asked.visible)


def _has_held_out(asked: Question) -> bool:
    """Return whether photos of this data set were held out in training; they are not the ones asked about."""
    if asked.recipe is None or asked.part != "test" or not asked.recipe.data.held_out:
        return False
    try:
        return bool(part_of(asked.dataset, asked.recipe, "held-out"))
    except DatasetError:
        return False


def _plain(value: Value) -> object:
    return value.to_dict() if isinstance(value, Figure) else value
