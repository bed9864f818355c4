"""The mark head: where each part of an object is and what can be seen there, learnt from a table class × mark alone.

A mark is a `part: value`. *Where* is a spatial softmax for every part, linear in coarse maps, which know what is what.
*What* is read there. A mark's logit is its bias + sum over places of weight(part, place) · value(mark, place), so its
map needs no gradient. Coarse maps would fit the table from any place, because they know the class. So in training the
places are learnt by another, small reading of fine maps, which see little of the image each, as
`training.fit.losses.marks` says.

Source: attributes in place from class-level tables: Xu et al. 2020, "Attribute prototype network", arXiv:2008.08290.
The division into where and what, and the reading that is too local to guess the class, are this project's own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.contract.marks import common_values, numbered, split_mark
from model.network.backbone import Stage
from model.network.config import NetworkOptions

EPSILON = 1e-5
"""Added to the variances by which maps are standardised."""


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
        stages: the backbone's `maps`.
        options: the settings that begin with `mark_`; indices of stages may be negative.

    Attributes:
        parts: names of the P parts, in the order of their first marks.
        values: names of the values; marks of several parts with the same value share a reading.
        part_of: index of each mark's part, (A,).
        value_of: index of each mark's value, (A,).
        local_values: indices of the L values by which the places are learnt.
        grid: cells along each side of the grid.
        between: indices of the parts between which a part lies, by its own index, where the options say so.

    Raises:
        ValueError: a name without a part or a value.
    """

    part_of: Tensor
    value_of: Tensor

    def __init__(self, marks: Sequence[str], stages: Sequence[Stage], options: NetworkOptions) -> None:
        super().__init__()
        parts, values = zip(*map(split_mark, marks), strict=True)
        self.parts, part_of = numbered(parts)
        self.values, value_of = numbered(values)
        self.local_values = common_values(part_of, value_of)
        self.register_buffer("part_of", torch.tensor(part_of), persistent=False)
        self.register_buffer("value_of", torch.tensor(value_of), persistent=False)
        self.between = placed_between(self.parts, options.mark_between)
        self.grid, self._stages = options.mark_grid, tuple(stages)
        self.copies = options.mark_copies
        self.where = _Projection(stages, options.mark_places, len(self.parts), options.mark_shift, self.copies)
        self.what = _Projection(stages, options.mark_values, options.mark_width, options.mark_shift)
        width = self.copies * options.mark_width
        self.local = _Projection(stages, options.mark_local, width, options.mark_shift)
        self.local_reader = nn.Conv2d(width, self.copies * len(self.local_values), 1, groups=self.copies)
        self.reader = nn.Linear(options.mark_width, len(self.values))
        self.own = nn.Parameter(torch.zeros(len(marks), options.mark_width))
        self.bias = nn.Parameter(torch.zeros(len(marks)))

    @property
    def stages_read(self) -> frozenset[int]:
        """Indices of the stages whose maps it reads, in training too."""
        return self.stages_served | frozenset(index % len(self._stages) for index in self.local.indices)

    @property
    def stages_served(self) -> frozenset[int]:
        """The same without those of training alone."""
        count = len(self._stages)
        return frozenset(index % count for part in (self.where, self.what) for index in part.indices)

    @property
    def readout(self) -> Readout:
        """How the logits follow from the weights and the features: the shared reading of a value, and a mark's own."""
        shared = self.reader.weight[self.value_of] + self.own
        return Readout(shared, self.reader.bias[self.value_of] + self.bias)

    def forward(self, maps: Sequence[Tensor]) -> MarkReading:
        """Read the marks of what `Backbone.forward_maps` returns, (N, C, h, w) each."""
        weights, features = self.weights(maps), self.features(maps)
        return MarkReading(self.logits(weights, features), weights, features)

    def weights(self, maps: Sequence[Tensor]) -> Tensor:
        """Return where each part is read, (N, P, grid, grid)."""
        return self._distributions(self.where(maps, self.grid, average=True))

    def copies_of_weights(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return what each copy says of it, (N, P, grid, grid) each; for training alone."""
        return [self._distributions(scores) for scores in self.where(maps, self.grid).chunk(self.copies, 1)]

    def _distributions(self, scores: Tensor) -> Tensor:
        scores = scores.flatten(2)
        if self.between:
            # One small product: taking the planes apart would be three operators of the exported graph for each.
            mixed = torch.eye(len(self.parts)).to(scores)
            for part, others in self.between.items():
                mixed[part] = torch.isin(torch.arange(len(self.parts)), torch.tensor(others)) / len(others)
            scores = mixed @ scores
        return scores.softmax(2).view(-1, len(self.parts), self.grid, self.grid)

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """Return what is read at each place, (N, D, grid, grid)."""
        return torch.relu(self.what(maps, self.grid))

    def logits(self, weights: Tensor, features: Tensor) -> Tensor:
        """Return the marks' logits, (N, A), of weights and features."""
        pooled = torch.bmm(weights.flatten(2), features.flatten(2).transpose(1, 2))
        weight, bias = self.readout
        return (pooled[:, self.part_of] * weight).sum(2) + bias

    def local_scores(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return what fine maps say of the local values at each place; for training alone.

        Returns:
            One reading for each copy of the places, (N, L, grid, grid) each.
        """
        scores: Tensor = self.local_reader(torch.relu(self.local(maps, self.grid)))
        return list(scores.chunk(self.copies, 1))


def placed_between(parts: Sequence[str], declared: Mapping[str, Sequence[str]]) -> dict[int, tuple[int, ...]]:
    """Return the indices of the parts between which a part lies, by its own index; what `parts` lacks is left out.

    Raises:
        ValueError: a part lies between parts of which one is itself placed so.
    """
    found = {}
    for part, others in declared.items():
        if nested := [other for other in others if other in declared]:
            raise ValueError(f"{part} cannot lie beside {nested[0]}, which lies between other parts itself")
        present = tuple(parts.index(other) for other in others if other in parts)
        if part in parts and present:
            found[parts.index(part)] = present
    return found


class _Projection(nn.Module):
    """A linear reading of the cells of several stages, standardised, laid on one regular grid and added up.

    Args:
        stages: of the backbone.
        indices: of those that are read.
        channels: of the result.
        shift: (x, y) by which the cells look past their centres, pixels.
        copies: of the reading, one after the other in the result's channels.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        indices: Sequence[int],
        channels: int,
        shift: tuple[float, float],
        copies: int = 1,
    ) -> None:
        super().__init__()
        self._copies = copies
        self._shift = shift
        self.indices = tuple(indices)
        self._read = tuple(stages[index] for index in indices)
        self.norms = nn.ModuleList(nn.BatchNorm2d(stage.channels, EPSILON, affine=False) for stage in self._read)
        count = copies * channels
        self.layers = nn.ModuleList(nn.Conv2d(stage.channels, count, 1, bias=False) for stage in self._read)

    def forward(self, maps: Sequence[Tensor], grid: int, *, average: bool = False) -> Tensor:
        """Return (N, copies · channels, grid, grid) of the maps of all stages, or the average of the copies."""
        copies = self._copies if average else 1
        size = input_size(maps[self.indices[0]].shape[-1], self._read[0])
        placed = []
        for index, stage, norm, layer in zip(self.indices, self._read, self.norms, self.layers, strict=True):
            right, down = self._shift
            rows, columns = (
                grid_matrix(cells, stage, grid, size, shift).to(maps[index])
                for cells, shift in zip(maps[index].shape[2:], (down, right), strict=True)
            )
            x, read = (norm(maps[index]), layer) if self.training else (maps[index], _folded(norm, layer, copies))
            # The layer and the resampling commute: fewer cells first.
            finer = x.shape[2] > grid
            placed.append(read(resampled(x, rows, columns)) if finer else resampled(read(x), rows, columns))
        total: Tensor = sum(placed[1:], placed[0])
        # In training the norms follow the batch, so that the copies are computed anyway.
        return torch.stack(total.chunk(self._copies, 1)).mean(0) if self.training and copies > 1 else total


def resampled(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return rows · x · columnsᵀ of every channel; as a product it would be exported with a copy of `rows` for each."""
    y = functional.conv1d((x @ columns.T).flatten(0, 1), rows[:, :, None])
    return y.view(-1, *x.shape[1:2], *y.shape[1:])


def _folded(norm: nn.Module, layer: nn.Module, copies: int) -> Callable[[Tensor], Tensor]:
    """Return layer(norm(x)) of evaluation as one layer: in an exported graph it takes half of the time.

    Of several copies of the layer it is the average.

    Runtimes fold a norm into the layer before it, not into the one behind it; and cells in a row are taken as the map
    is kept for Grad-CAM, where a convolution in two dimensions would have it in an order of its own.
    """
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    weight = layer.get_parameter("weight").flatten(1) * (variance + EPSILON).rsqrt()
    if copies > 1:
        weight = torch.stack(weight.chunk(copies)).mean(0)
    bias = -(weight @ mean[:, None])[:, 0]
    return lambda x: functional.conv1d(x.flatten(2), weight[:, :, None], bias).view(-1, len(bias), *x.shape[2:])


def input_size(cells: int, stage: Stage) -> int:
    """Return the side of the input, pixels, of which a stage has so many cells."""
    return cells * stage.stride


def cell_mass(weights: Tensor, stage: Stage, cells: int) -> Tensor:
    """Return the share of weights that each cell of a stage holds: what reads a map at places, turned around.

    Args:
        weights: on a regular grid over the input, (N, P, grid, grid).
        stage: whose cells they are.
        cells: along each side of its map.

    Returns:
        (N, P, cells, cells), of the same sums.
    """
    matrix = grid_matrix(cells, stage, weights.shape[-1], input_size(cells, stage)).to(weights)
    return matrix.T @ weights @ matrix


def grid_matrix(cells: int, stage: Stage, grid: int, size: int, shift: float = 0.0) -> Tensor:
    """Return the matrix, (grid, cells), that reads a map between its cells' true centres on a regular grid.

    Args:
        cells: of the map, along one axis.
        stage: for its stride and the pixel its first cell is centred on.
        grid: cells of the regular grid.
        size: of the input, pixels.
        shift: by which the cells look past their centres, pixels.
    """
    centres = (torch.arange(grid) + 0.5) * (size / grid) - 0.5
    position = ((centres - stage.centre - shift) / stage.stride).clamp(0, cells - 1)
    return (1 - (position[:, None] - torch.arange(cells)).abs()).clamp_min(0)
