"""Checkpoints: written whole or not at all, and read without running code from them.

A run's folder contains `checkpoint.pt` (to resume) and `best.pt` (the selected weights, to evaluate and export).
"""

import dataclasses
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.contract.taxonomy import Taxonomy
from model.files import WriteError, write_whole
from model.network.network import Network, NetworkConfig, build_network
from training.data.marks import Marks
from training.errors import CheckpointError
from training.recipe import Recipe

FORMAT = 1
LAST = "checkpoint.pt"
SELECTED = "best.pt"


@dataclass(frozen=True)
class Selected:
    """The weights of a run that are evaluated and exported, and everything an export needs.

    Attributes:
        recipe: of the run.
        labels: of the classes, in order.
        state_dict: of the network; averaged weights where the recipe averages.
        epoch: number of epochs they were trained.
        temperature: fitted on the held-out part; 1 if there is none.
        metrics: measured on the held-out part.
        facts: data set, number of training images, licence, commit, tools: for the manifest's provenance.
        marks: that the network reads; None where it reads none.
        taxonomy: of the classes; None where the data had none.
    """

    recipe: Recipe
    labels: tuple[str, ...]
    state_dict: dict[str, Tensor]
    epoch: int
    temperature: float
    metrics: dict[str, float]
    facts: dict[str, Any]
    marks: Marks | None = None
    taxonomy: Taxonomy | None = None

    def network(self) -> Network:
        """Return the network with these weights, in evaluation mode."""
        network = build_network(network_config(self.recipe, len(self.labels), self.marks))
        network.load_state_dict(self.state_dict)
        return network.eval()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values and tensors, for `write`."""
        plain = {
            "recipe": self.recipe.to_dict(),
            "labels": list(self.labels),
            "marks": self.marks and self.marks.to_dict(),
            "taxonomy": self.taxonomy and self.taxonomy.model_dump(),
        }
        return {**vars(self), **plain}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Selected":
        """Read what `to_dict` returned."""
        marks, taxonomy = values.get("marks"), values.get("taxonomy")  # older checkpoints lack them
        plain = ("marks", "taxonomy")
        known = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name not in plain}
        return cls(
            **{
                **known,
                "recipe": Recipe.from_dict(known["recipe"]),
                "labels": tuple(known["labels"]),
                "marks": marks and Marks.from_dict(marks),
                "taxonomy": taxonomy and Taxonomy.model_validate(taxonomy),
            }
        )


def network_config(recipe: Recipe, num_classes: int, marks: Marks | None = None) -> NetworkConfig:
    """Return the config of a recipe's network.

    Args:
        recipe: of a run.
        num_classes: K.
        marks: that the network reads, if any.
    """
    names = [] if marks is None else [mark.key for mark in marks.marks]
    return NetworkConfig.from_dict({**dataclasses.asdict(recipe.network), "num_classes": num_classes, "marks": names})


def load_selected(run: Path) -> Selected:
    """Read the selected weights of a run, from its folder or from the file itself.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    path = run / SELECTED if run.is_dir() else run
    try:
        return Selected.from_dict(read(path))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of this version: {error!r}") from error


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all.

    Raises:
        CheckpointError: it could not be written; the old file, if any, is untouched.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **values}, buffer)
    try:
        write_whole(path, buffer.getbuffer())
    except WriteError as error:
        raise CheckpointError(str(error)) from error


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint, running no code from it.

    Raises:
        CheckpointError: missing, damaged, or of another format.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: has `fieldmark-train fit` run?")
    try:
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of errors on damaged files
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of format {FORMAT}")
    return values
