"""`fieldmark-train evaluate`: a run, or an exported file, on the photos of a part → figures, tables, a report."""

import hashlib
import json
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.contract.manifest import Manifest, ManifestError, Marks
from model.explain.marks import MarkCalibration, MarkReader
from model.export.export import load_network, read
from model.files import write_whole
from model.network.network import Network
from training.calibration.fitted import fitted_to
from training.checkpoint import SELECTED, Selected, load_selected
from training.data.prepared import prepared_images
from training.data.samples import Dataset, spread
from training.data.transforms import Normalise
from training.errors import DatasetError, TrainingError
from training.evaluation.classification import class_rows, confused_pairs
from training.evaluation.evaluate import Evaluation, evaluate_file, evaluate_run, part_of
from training.evaluation.figures import Figure
from training.evaluation.images import as_csv, as_parquet, image_columns
from training.evaluation.maps.faithfulness import faithfulness_figures, faithfulness_of
from training.evaluation.maps.looking import look_figures, look_offsets, moved
from training.evaluation.maps.regions import Floats
from training.evaluation.maps.sanity import cascade, cascade_figures, gradcam_of, randomised
from training.evaluation.mark_tables import MarkResult, blur_result, mark_result
from training.evaluation.marks.blur import Ask
from training.evaluation.predictors import file_asker, network_asker, pair_maps
from training.evaluation.report.card import summary, write_card
from training.evaluation.report.page import Contents, write_report
from training.evaluation.tables import MapRow, Value, figures_of, is_located, map_rows
from training.fit.processes import pick_device
from training.recipe import Recipe

STATISTICS = 32
"""Photos whose statistics the batch norms of a network with random weights take."""
PHOTOS_OF_EVERY_LAYER = 200
"""Photos on which the earlier layers of a file are measured: their gradients take ten times as long as the rest."""


class NormalisedNetwork(NamedTuple):
    """A network in torch, with what turns uint8 images into its input."""

    network: Network
    normalise: Normalise


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
        command: that asks, as it is typed.
        faithfulness: photos on which the maps' faithfulness is measured; 0: on none.
        sanity: photos on which layers are set back to random weights; 0: on none, and no line `random_weights`.
        blur: photos on which the places of marks are blurred; 0: on none.
        placings: photos on which it is measured where the cells of a file's maps look; the maps are then measured
            evenly, by the centres of their cells, and there. 0: as they are drawn alone.
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
    command: str = ""
    faithfulness: int = 0
    sanity: int = 0
    blur: int = 0
    placings: int = 0

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
        marks: what was found of the marks; None where the model has none.
        looking: how far beside its centre each layer's cells look, pixels; None where that was not measured.
        provenance: what makes the figures repeatable.
    """

    question: Question
    evaluation: Evaluation
    figures: dict[str, Value]
    rows: list[MapRow]
    marks: MarkResult | None
    looking: dict[str, dict[str, Figure]] | None
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
    if asked.blur and not _has_marks(asked):
        raise TrainingError(f"{asked.model} has no marks whose places could be blurred")
    evaluation = _answers(asked, asked.part)
    located = is_located(evaluation)
    held_out = _answers(asked, "held-out") if located and _has_held_out(asked) else None
    earlier = None
    if located and asked.is_file:
        samples = spread(part_of(asked.dataset, asked.recipe, asked.part), PHOTOS_OF_EVERY_LAYER)
        earlier = evaluate_file(asked.model, asked.dataset, samples, asked.workers, asked.visible, every_layer=True)
    network = _network(asked) if asked.sanity or asked.placings else None
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
        marks = photos.blur(_asker(asked), marks, asked.blur)
    if marks is not None:
        figures |= marks.figures
    if asked.faithfulness:
        figures |= photos.faithfulness(asked.model, asked.faithfulness)
    if asked.sanity and network is not None:
        figures |= photos.sanity(network, asked.sanity)
    return Result(asked, evaluation, figures, rows, marks, looking, provenance(asked))


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
    write_card(card, summary(result.figures, result.rows, result.provenance, photos, result.marks))


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
    for name, value in result.figures.items():
        found[name] = f"{value:.5g}" if isinstance(value, float) else shown(value)
    if asked.dataset.skipped:
        found["skipped_damaged"] = str(asked.dataset.skipped)
    return found


def shown(figure: Figure) -> str:
    """Return a figure with its interval and the number of photos."""
    return f"{figure.value:.4f}  ({figure.low:.4f} … {figure.high:.4f}, n = {figure.n})"


class Photos:
    """The photos of an evaluation, prepared again for what changes them, or the network.

    Args:
        evaluation: the answers.
        banner: rows cropped off the bottom of every photo, pixels.
        visible: show progress.
    """

    def __init__(self, evaluation: Evaluation, banner: int, visible: bool) -> None:
        self._evaluation, self._banner, self._visible = evaluation, banner, visible

    def images(self, chosen: Iterable[int]) -> Tensor:
        """Return photos as the service prepares them, uint8 (n, 3, S, S)."""
        samples = [self._evaluation.samples[index] for index in chosen]
        pixels = prepared_images(samples, self._evaluation.resize, self._banner)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def faithfulness(self, model: Path, count: int) -> dict[str, Figure]:
        """Return how faithful the maps are, on some of the photos."""
        prediction = self._evaluation.prediction
        chosen = spread(range(len(self._evaluation.samples)), count)
        maps = {"gradcam": next(iter(prediction.gradcam.values()))[chosen]}
        if prediction.attention is not None:
            maps["attention"] = prediction.attention[chosen]
        return faithfulness_figures(faithfulness_of(model, self.images(chosen), maps, self._visible))

    def blur(self, ask: Ask, found: MarkResult, count: int) -> MarkResult:
        """Return what was found of the marks with what blurring their places costs, on some of the photos."""
        chosen = spread(range(len(self._evaluation.samples)), count)
        return blur_result(self._evaluation, found, ask, lambda index: self.images([index])[0], chosen, self._visible)

    def looking(self, network: NormalisedNetwork, count: int) -> dict[str, dict[str, Figure]]:
        """Return how far beside its centre each layer's cells look, measured on some of the photos."""
        photos = network.normalise(self.images(spread(range(len(self._evaluation.samples)), count)))
        return look_figures(look_offsets(network.network, photos, self._evaluation.centres))

    def random_weights(self, network: NormalisedNetwork) -> Floats:
        """Return the maps of a network of the same build that has learnt nothing, of every photo."""
        everyone = range(len(self._evaluation.samples))
        statistics = network.normalise(self.images(spread(everyone, STATISTICS)))
        fresh = randomised(network.network, statistics)
        predicted = torch.from_numpy(self._evaluation.prediction.logits.argmax(axis=1))
        parts = (everyone[at : at + STATISTICS] for at in range(0, len(everyone), STATISTICS))
        return np.concatenate(
            [
                gradcam_of(fresh, network.normalise(self.images(part)), predicted[part.start : part.stop])
                for part in parts
            ]
        )

    def sanity(self, network: NormalisedNetwork, count: int) -> dict[str, Figure]:
        """Return how the maps change while layers are set back to random weights, on some of the photos."""
        everyone = range(len(self._evaluation.samples))
        photos, statistics = (network.normalise(self.images(spread(everyone, n))) for n in (count, STATISTICS))
        return cascade_figures(cascade(network.network, photos, statistics))


def _network(asked: Question) -> NormalisedNetwork | None:
    """Return the network behind a run or a file; None for a file of a network that was not built here."""
    cpu = torch.device("cpu")
    if not asked.is_file:
        selected = load_selected(asked.model)
        return NormalisedNetwork(
            selected.network(), Normalise(selected.recipe.data.mean, selected.recipe.data.std, cpu)
        )
    try:
        network, manifest = load_network(asked.model)
    except ManifestError:
        return None
    return NormalisedNetwork(network.eval(), Normalise(manifest.mean, manifest.std, cpu))


def _has_marks(asked: Question) -> bool:
    if asked.is_file:
        metadata = {entry.key: entry.value for entry in read(asked.model).metadata_props}
        return Manifest.from_metadata(metadata).marks is not None
    return load_selected(asked.model).marks is not None


def _answers(asked: Question, part: str) -> Evaluation:
    samples = part_of(asked.dataset, asked.recipe, part)
    if asked.is_file:
        return evaluate_file(asked.model, asked.dataset, samples, asked.workers, asked.visible)
    selected = load_selected(asked.model)
    marks, calibration = _marks_of_run(asked.model, selected)
    return evaluate_run(
        selected,
        asked.dataset,
        samples,
        pick_device(asked.device),
        asked.workers,
        asked.visible,
        marks=marks,
        calibration=calibration,
    )


def _asker(asked: Question) -> Ask:
    """Return a function from photos to logits and marks."""
    if asked.is_file:
        return file_asker(asked.model)
    selected = load_selected(asked.model)
    marks, calibration = _marks_of_run(asked.model, selected)
    network, data = selected.network(), selected.recipe.data
    if marks is None or network.mark_head is None:
        raise TrainingError(f"{asked.model} reads no marks")
    reader = MarkReader(network.mark_head, marks, len(selected.labels), calibration)
    return network_asker(network, Normalise(data.mean, data.std, torch.device("cpu")), reader)


def _marks_of_run(run: Path, selected: Selected) -> tuple[Marks | None, MarkCalibration | None]:
    """Return the marks of a run as its file would list them, and their calibration where the run can be calibrated."""
    if selected.marks is None:
        return None, None
    folder = run if run.is_dir() else run.parent
    return selected.marks.listed(), fitted_to(folder, selected.marks).marks


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
