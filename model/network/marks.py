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
from functools import partial
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
        if self.training:
            weights, features = self.weights(maps), self.features(maps)
        else:
            # Places and values from one reading of each map, with nothing left to do on the grid but to place them.
            scores, values = read_together((self.where, self.what), maps, self.grid, self.mixing)
            weights, features = distributions(scores), torch.relu(values)
        return MarkReading(self.logits(weights, features), weights, features)

    def weights(self, maps: Sequence[Tensor]) -> Tensor:
        """Return where each part is read, (N, P, grid, grid)."""
        copies = self.where(maps, self.grid).chunk(self.copies, 1)
        return distributions(self._mixed(torch.stack(copies).mean(0)))

    def copies_of_weights(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return what each copy says of it, (N, P, grid, grid) each; for training alone."""
        return [distributions(self._mixed(scores)) for scores in self.where(maps, self.grid).chunk(self.copies, 1)]

    @property
    def mixing(self) -> Tensor | None:
        """How the scores of parts are made of those that are learnt, (P, P); None: they are those."""
        if not self.between:
            return None
        mixing = torch.eye(len(self.parts)).to(self.own)
        for part, others in self.between.items():
            mixing[part] = torch.isin(torch.arange(len(self.parts)), torch.tensor(others)) / len(others)
        return mixing

    def _mixed(self, scores: Tensor) -> Tensor:
        mixing = self.mixing
        return scores if mixing is None else torch.einsum("pq,nqhw->nphw", mixing.to(scores), scores)

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        """Return what is read at each place, (N, D, grid, grid)."""
        return torch.relu(self.what(maps, self.grid))

    def logits(self, weights: Tensor, features: Tensor) -> Tensor:
        """Return the marks' logits, (N, A), of weights and features."""
        pooled = torch.bmm(weights.flatten(2), features.flatten(2).transpose(1, 2))
        weight, bias = self.readout
        return (pooled.index_select(1, self.part_of) * weight).sum(2) + bias

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
        # Counted from the last map: the first ones may be missing, where a gradient starts behind them.
        self.indices = tuple(index % len(stages) - len(stages) for index in indices)
        self._read = tuple(stages[index] for index in indices)
        self.norms = nn.ModuleList(nn.BatchNorm2d(stage.channels, EPSILON, affine=False) for stage in self._read)
        count = copies * channels
        self.layers = nn.ModuleList(nn.Conv2d(stage.channels, count, 1, bias=False) for stage in self._read)

    def forward(self, maps: Sequence[Tensor], grid: int) -> Tensor:
        """Return (N, copies · channels, grid, grid) of the maps of all stages."""
        layers = [nn.Sequential(norm, layer) for norm, layer in zip(self.norms, self.layers, strict=True)]
        placed = [self.place(maps, index, grid, layer) for index, layer in zip(self.indices, layers, strict=True)]
        total: Tensor = sum(placed[1:], placed[0])
        return total

    def place(self, maps: Sequence[Tensor], index: int, grid: int, read: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what a layer reads in the cells of a stage, on the regular grid, (N, c, grid, grid)."""
        size = input_size(maps[self.indices[0]].shape[-1], self._read[0])
        x, stage = maps[index], self._read[self.indices.index(index)]
        rows, columns = grid_matrices(x, stage, grid, size, self._shift)
        # The layer and the resampling commute: fewer cells first.
        return read(resampled(x, rows, columns)) if x.shape[2] > grid else resampled(read(x), rows, columns)

    def folded(self, index: int) -> tuple[Tensor, Tensor]:
        """Return weight, (channels, C), and bias, (channels,), of a stage's norm and layer in evaluation as one layer.

        Of several copies it is the average. Runtimes fold a norm into the layer before it, not into the one behind it.
        """
        number = self.indices.index(index)
        mean, variance = (self.norms[number].get_buffer(name) for name in ("running_mean", "running_var"))
        weight = self.layers[number].get_parameter("weight").flatten(1) * (variance + EPSILON).rsqrt()
        weight = torch.stack(weight.chunk(self._copies)).mean(0)
        return weight, -(weight @ mean[:, None])[:, 0]


def read_together(
    projections: Sequence[_Projection], maps: Sequence[Tensor], grid: int, mixing: Tensor | None = None
) -> list[Tensor]:
    """Return what projections of the same stages read in evaluation, (N, channels, grid, grid) each; copies averaged.

    One layer reads a map for all of them: an exported graph takes half of the time, as its nodes are small.

    Args:
        projections: with the same shift.
        maps: of the backbone's stages, first to last.
        grid: cells along each side.
        mixing: of the first one's channels, (channels, channels).
    """
    found: list[list[Tensor]] = [[] for _ in projections]
    for index in sorted({index for projection in projections for index in projection.indices}):
        numbers = [number for number, projection in enumerate(projections) if index in projection.indices]
        layers = [projections[number].folded(index) for number in numbers]
        if mixing is not None and numbers[0] == 0:
            layers[0] = (mixing @ layers[0][0], mixing @ layers[0][1])
        weight, bias = (torch.cat(parts) for parts in zip(*layers, strict=True))
        read = partial(_in_rows, weight=weight, bias=bias)
        placed = projections[numbers[0]].place(maps, index, grid, read)
        for number, part in zip(numbers, torch.split(placed, [len(bias) for _, bias in layers], 1), strict=True):
            found[number].append(part)
    return [sum(parts[1:], parts[0]) for parts in found]


def _in_rows(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return a 1×1 convolution over cells in a row, as the map is kept for Grad-CAM.

    In two dimensions runtimes would want the map in an order of their own.
    """
    return functional.conv1d(x.flatten(2), weight[:, :, None], bias).view(-1, len(bias), *x.shape[2:])


def resampled(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return rows · x · columnsᵀ of every channel; as a product it would be exported with a copy of `rows` for each."""
    y = functional.conv1d((x @ columns.T).flatten(0, 1), rows[:, :, None])
    return y.view(-1, *x.shape[1:2], *y.shape[1:])


def distributions(scores: Tensor) -> Tensor:
    """Return a softmax over the places, (N, P, h, w)."""
    return scores.flatten(2).softmax(2).view(scores.shape)


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


def grid_matrices(
    maps: Tensor, stage: Stage, grid: int, size: int, shift: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Return `grid_matrix` of the rows and of the columns of a stage's maps, (N, C, h, w); shift is (x, y), pixels."""
    (right, down), (rows, columns) = shift, maps.shape[2:]
    return grid_matrix(rows, stage, grid, size, down).to(maps), grid_matrix(columns, stage, grid, size, right).to(maps)


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
