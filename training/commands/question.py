"""What is evaluated, and how its model answers: a run in torch, or an exported file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from model.contract.manifest import Manifest, ManifestError
from model.explain.fitted import Fitted
from model.explain.marks import MarkReader
from model.export.export import load_network, read
from model.network.network import Network
from training.calibration.fitted import fitted_to
from training.checkpoint import Selected, load_selected
from training.data.samples import Dataset, Sample
from training.data.transforms import Normalise
from training.errors import DatasetError, TrainingError
from training.evaluation.evaluate import Evaluation, evaluate_file, evaluate_run, part_of
from training.evaluation.marks.blur import Ask
from training.evaluation.predictors import file_asker, network_asker
from training.fit.processes import pick_device
from training.recipe import Recipe


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
        unknown: folders of photos of what the model does not know, from which it is to distinguish the part's photos.
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
    unknown: tuple[Path, ...] = ()

    @property
    def is_file(self) -> bool:
        """Whether the model is an exported file."""
        return self.model.suffix == ".onnx"


def network_of(asked: Question) -> NormalisedNetwork | None:
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


def has_marks(asked: Question) -> bool:
    """Return whether the model reads marks."""
    if asked.is_file:
        metadata = {entry.key: entry.value for entry in read(asked.model).metadata_props}
        return Manifest.from_metadata(metadata).marks is not None
    return load_selected(asked.model).marks is not None


def answers(asked: Question, samples: Sequence[Sample]) -> Evaluation:
    """Return the answers for photos."""
    if asked.is_file:
        return evaluate_file(asked.model, asked.dataset, samples, asked.workers, asked.visible)
    selected = load_selected(asked.model)
    return evaluate_run(
        selected,
        asked.dataset,
        samples,
        pick_device(asked.device),
        asked.workers,
        asked.visible,
        marks=None if selected.marks is None else selected.marks.listed(selected.recipe.network.mark_between),
        fitted=_fitted(asked.model, selected),
    )


def asker(asked: Question) -> Ask:
    """Return a function from photos to logits and marks."""
    if asked.is_file:
        return file_asker(asked.model)
    selected = load_selected(asked.model)
    network, data = selected.network(), selected.recipe.data
    if selected.marks is None or network.mark_head is None:
        raise TrainingError(f"{asked.model} reads no marks")
    marks = selected.marks.listed(selected.recipe.network.mark_between)
    reader = MarkReader(network.mark_head, marks, len(selected.labels), _fitted(asked.model, selected).marks)
    return network_asker(network, Normalise(data.mean, data.std, torch.device("cpu")), reader)


def _fitted(run: Path, selected: Selected) -> Fitted:
    """Return what the export of a run would add to its network."""
    return fitted_to(run if run.is_dir() else run.parent, selected.marks)


def has_held_out(asked: Question) -> bool:
    """Return whether photos of this data set were held out in training; they are not the ones asked about."""
    if asked.recipe is None or asked.part != "test" or not asked.recipe.data.held_out:
        return False
    try:
        return bool(part_of(asked.dataset, asked.recipe, "held-out"))
    except DatasetError:
        return False
