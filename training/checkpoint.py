"""Checkpoints: written whole or not at all, read without running code, and everything an export needs.

A run's folder holds `checkpoint.pt` (the last position: resume) and `best.pt` (the selected weights: evaluate, export).
"""

import dataclasses
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.files import WriteError, write_whole
from model.network.network import Network, NetworkConfig, build_network
from training.errors import CheckpointError
from training.recipe import Recipe

FORMAT = 1
LAST = "checkpoint.pt"
SELECTED = "best.pt"


@dataclass(frozen=True)
class Selected:
    """The weights of a run that are evaluated and exported, with what is known of them.

    Attributes:
        recipe: of the run.
        labels: of the classes, in order.
        state_dict: of the network; averaged weights where the recipe averages.
        epoch: after how many epochs.
        temperature: fitted on the held-out part; 1 without one.
        metrics: measured on the held-out part.
        facts: data set, number of training images, licence, commit, tools: for the manifest's provenance.
    """

    recipe: Recipe
    labels: tuple[str, ...]
    state_dict: dict[str, Tensor]
    epoch: int
    temperature: float
    metrics: dict[str, float]
    facts: dict[str, Any]

    def network_config(self) -> NetworkConfig:
        """Return what the network is built from."""
        return network_config(self.recipe, len(self.labels))

    def network(self) -> Network:
        """Return the network with these weights, in evaluation mode."""
        network = build_network(self.network_config())
        network.load_state_dict(self.state_dict)
        return network.eval()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values and tensors, for `write`."""
        return {
            "recipe": self.recipe.to_dict(),
            "labels": list(self.labels),
            "state_dict": self.state_dict,
            "epoch": self.epoch,
            "temperature": self.temperature,
            "metrics": self.metrics,
            "facts": self.facts,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Selected":
        """Read what `to_dict` gave."""
        return cls(
            Recipe.from_dict(values["recipe"]),
            tuple(values["labels"]),
            values["state_dict"],
            values["epoch"],
            values["temperature"],
            values["metrics"],
            values["facts"],
        )


def network_config(recipe: Recipe, num_classes: int) -> NetworkConfig:
    """Return the network a recipe describes, for so many classes."""
    return NetworkConfig.from_dict({**dataclasses.asdict(recipe.network), "num_classes": num_classes})


def load_selected(run: Path) -> Selected:
    """Read the selected weights of a run, from its folder or from the file itself.

    Raises:
        CheckpointError: there are none, or the file is damaged.
    """
    path = run / SELECTED if run.is_dir() else run
    try:
        return Selected.from_dict(read(path))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of this version: {error!r}") from error


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Write a checkpoint so that a crash or a full disk leaves the old one whole.

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
    except Exception as error:  # torch raises whatever its unpickler and zip reader meet
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of format {FORMAT}")
    return values
