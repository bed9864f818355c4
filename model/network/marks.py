"""The mark head: says where each part of an object is and what can be seen there, from a table class × mark alone.

A mark is a `part: value`. *Where* and *what* are two modules. Where: a spatial softmax for every part, linear in coarse
maps. What: a reading of fine maps, which look at little of the image each, so that it has to look at the right place.
A mark's logit is its bias + sum over places of weight(part, place) · value(mark, place): its map needs no gradient.

Source: places from class-level tables: Xu et al. 2020, "Attribute prototype network", arXiv:2008.08290; that one small
reader for all parts must see too little to guess the class is this project's own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.network.backbone import Stage

SEPARATOR = ": "
"""Between the part and the value in the name of a mark."""


class MarkReading(NamedTuple):
    """The outputs of a mark head on a regular grid over the input.

    Attributes:
        logits: of every mark, (N, A).
        weights: where each part is read, (N, P, h, w); not negative, sum 1 over the places.
        features: what is read there, (N, D, h, w).
    """

    logits: Tensor
    weights: Tensor
    features: Tensor


class Readout(NamedTuple):
    """The linear reading of every mark: logits = bias + weight · the features pooled by the part's weights.

    Attributes:
        weight: (A, D).
        bias: (A,).
    """

    weight: Tensor
    bias: Tensor


class MarkHead(nn.Module):
    """Reads marks at the places of their parts.

    Args:
        marks: their names, `part: value`, in the order of the logits.
        stages: of the backbone, first to last.
        places: indices of the stages that say where a part is.
        values: indices of the stages that are read there.
        grid: side of the grid, cells.
        width: D, number of features that are read.

    Attributes:
        parts: names of the P parts, in the order of their first marks.
        values: names of the values; marks of several parts with the same value share its reading.
        part_of: index of each mark's part, (A,).
        value_of: index of each mark's value, (A,).

    Raises:
        ValueError: a name without a part or a value.
        IndexError: the backbone has no such stage.
    """

    part_of: Tensor
    value_of: Tensor

    def __init__(
        self,
        marks: Sequence[str],
        stages: Sequence[Stage],
        places: Sequence[int],
        values: Sequence[int],
        grid: int,
        width: int,
    ) -> None:
        super().__init__()
        named = [split_mark(mark) for mark in marks]
        self.parts = tuple(dict.fromkeys(part for part, _ in named))
        self.values = tuple(dict.fromkeys(value for _, value in named))
        self.register_buffer("part_of", torch.tensor([self.parts.index(part) for part, _ in named]), persistent=False)
        self.register_buffer(
            "value_of", torch.tensor([self.values.index(value) for _, value in named]), persistent=False
        )
        self.grid, self._stages = grid, tuple(stages)
        self._places, self._values = tuple(places), tuple(values)
        self.where = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(stages[i].channels, affine=False),
                nn.Conv2d(stages[i].channels, len(self.parts), 1, bias=False),
            )
            for i in places
        )
        self.what = nn.ModuleList(nn.Conv2d(stages[i].channels, width, 1) for i in values)
        self.reader = nn.Linear(width, len(self.values))
        self.bias = nn.Parameter(torch.zeros(len(marks)))

    @property
    def readout(self) -> Readout:
        """How the logits follow from the weights and the features."""
        return Readout(self.reader.weight[self.value_of], self.reader.bias[self.value_of] + self.bias)

    def forward(self, maps: Sequence[Tensor], evidence: Tensor | None = None) -> MarkReading:
        """Read the marks of the backbone's stage maps, first to last, (N, C, h, w) each.

        Args:
            maps: of `Backbone.forward_stages`.
            evidence: how strongly each place of the last map speaks for the object, as a logit, (N, h, w).
        """
        size = input_size(maps[0].shape[-1], self._stages[0])
        scores = [self._resampled(module, maps[i], i, size) for module, i in zip(self.where, self._places, strict=True)]
        if evidence is not None:
            last = len(maps) - 1
            scores.append(functional.logsigmoid(self._resampled(nn.Identity(), evidence[:, None], last, size)))
        # The grid is fixed, so that a trace knows it.
        weights = sum(scores[1:], scores[0]).flatten(2).softmax(2)
        read = [self._resampled(module, maps[i], i, size) for module, i in zip(self.what, self._values, strict=True)]
        features = torch.relu(sum(read[1:], read[0]))
        pooled = torch.bmm(weights, features.flatten(2).transpose(1, 2))
        weight, bias = self.readout
        logits = (pooled[:, self.part_of] * weight).sum(2) + bias
        return MarkReading(logits, weights.view(-1, len(self.parts), self.grid, self.grid), features)

    def _resampled(self, module: nn.Module, x: Tensor, index: int, size: int) -> Tensor:
        """Apply a module to every cell of a stage's map and place the result on the grid, in the cheaper order."""
        stage = self._stages[index]
        rows, columns = (grid_matrix(cells, stage, self.grid, size).to(x) for cells in x.shape[2:])
        # A linear map of the channels and the resampling commute.
        if x.shape[-1] > self.grid:
            return module(rows @ x @ columns.T)  # type: ignore[no-any-return]
        return rows @ module(x) @ columns.T  # type: ignore[no-any-return]


def split_mark(name: str) -> tuple[str, str]:
    """Return the part and the value of a mark's name, `part: value`.

    Raises:
        ValueError: it has no part or no value.
    """
    part, separator, value = name.partition(SEPARATOR)
    if not (part and separator and value):
        raise ValueError(f"a mark is named 'part: value', not {name!r}")
    return part, value


def _numbered(words: Sequence[str]) -> tuple[tuple[str, ...], Tensor]:
    """Return the words that occur, in order, and the index of each given one."""
    known = tuple(dict.fromkeys(words))
    return known, torch.tensor([known.index(word) for word in words])


def input_size(cells: int, stage: Stage) -> int:
    """Return the side of the input, pixels, of which a stage has so many cells."""
    return cells * stage.stride


def grid_matrix(cells: int, stage: Stage, grid: int, size: int) -> Tensor:
    """Return the matrix, (grid, cells), that reads a map between its cells' true centres on a regular grid.

    Args:
        cells: of the map, along one axis.
        stage: for its stride and the pixel its first cell is centred on.
        grid: cells of the regular grid.
        size: of the input, pixels.
    """
    centres = (torch.arange(grid) + 0.5) * (size / grid) - 0.5
    position = ((centres - stage.centre) / stage.stride).clamp(0, cells - 1)
    return (1 - (position[:, None] - torch.arange(cells)).abs()).clamp_min(0)
