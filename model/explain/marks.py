"""Marks in the graph: how surely each is seen, and the maps of those that are asked for, by index or by rank."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.contract.graph import ranks_of
from model.contract.manifest import Marks
from model.contract.marks import read_table
from model.network.marks import MarkHead, MarkReading

SMALLEST = 1e-6
"""Added to both sides of a ratio, logits a place: in a map of zeros every mark has the share of chance."""


class MarkCalibration(NamedTuple):
    """What makes probabilities of the logits of marks: sigmoid(scale · logit + shift).

    Attributes:
        scale: (A,), positive.
        shift: (A,).
    """

    scale: Tensor
    shift: Tensor


class MarkAnswer(NamedTuple):
    """The outputs about marks.

    Attributes:
        seen: probability that each mark is seen, (N, A).
        maps: of the marks asked for, (N, M, h, w), not negative; NaN where a code names none.
        marked: the mark each map is of, (N, M); A where a code names none.
    """

    seen: Tensor
    maps: Tensor
    marked: Tensor


class MarkReader(nn.Module):
    """Turns a reading into the graph's outputs.

    A calibrated logit is still a sum over places: scale · bias + shift + Σ weight(part, place) · scale · value(place).

    Args:
        head: that reads.
        marks: of the manifest, for the table and for what the maps are.
        num_classes: K.
        calibration: of the logits; None to take them as they are.
    """

    table: Tensor
    located: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(
        self, head: MarkHead, marks: Marks, num_classes: int, calibration: MarkCalibration | None = None
    ) -> None:
        super().__init__()
        self.head, self.contributions = head, marks.maps == "contributions"
        self.num_marks, self.grid = marks.num_marks, (head.grid, head.grid)
        table = torch.from_numpy(read_table(marks.table, num_classes, marks.num_marks))
        scale, shift = calibration or (torch.ones(self.num_marks), torch.zeros(self.num_marks))
        # An unknown share is 0: a mark ranks as if it were not seen on that class.
        self.register_buffer("table", table.nan_to_num(0), persistent=False)
        located = torch.tensor([mark.located for mark in marks.marks])
        self.register_buffer("located", located, persistent=False)
        self.register_buffer("scale", scale.float().clone(), persistent=False)
        self.register_buffer("shift", shift.float().clone(), persistent=False)

    def forward(
        self, reading: MarkReading, difference: Tensor, valid: Tensor, mark: Tensor, class_map: Tensor | None = None
    ) -> MarkAnswer:
        """Answer codes of marks.

        Args:
            reading: of the head.
            difference: +1 at the first target, -1 at the first versus, (N, K).
            valid: whether both are classes, or the latter none, (N,).
            mark: codes, (N, M).
            class_map: of that difference, on the marks' grid, (N, h, w); None where it lies on another.
        """
        seen = torch.sigmoid(self.logits(reading))
        marked = self.resolve(self.scores(reading, seen, difference, class_map), valid, mark)
        chosen = marked[:, :, None] == torch.arange(self.num_marks)
        maps = self.maps(reading, chosen.to(seen.dtype))
        return MarkAnswer(seen, torch.where((marked < self.num_marks)[:, :, None, None], maps, torch.nan), marked)

    def logits(self, reading: MarkReading) -> Tensor:
        """Return the calibrated logits, (N, A)."""
        return reading.logits * self.scale + self.shift

    def scores(self, reading: MarkReading, seen: Tensor, difference: Tensor, class_map: Tensor | None) -> Tensor:
        """Return what marks are ranked by, (N, A).

        It is how surely a mark is seen, times how much more typical it is of the one class than of the other, times how
        much of the class's map lies where its part is read, 1 being chance: what the decision used comes first. A mark
        that is not located has chance's. On photos of cross-validation (528 named rightly), blurring the place of the
        first mark cost the decision more than blurring another part in 69% of them, and in 62% without the last factor.
        """
        gains = seen * (difference @ self.table)
        if class_map is None:
            return gains
        flat = class_map.flatten(1)[:, :, None]
        mass = torch.bmm(reading.weights.flatten(2), flat)[:, :, 0]
        relative = (mass + SMALLEST) / (flat.mean(1) + SMALLEST)
        return gains * torch.where(self.located, relative.index_select(1, self.head.part_of), 1.0)

    def resolve(self, scores: Tensor, valid: Tensor, mark: Tensor) -> Tensor:
        """Turn codes into marks, (N, M); A for a code that names none."""
        ranks = ranks_of(self.num_marks)
        order = torch.topk(scores, ranks, dim=1).indices
        ranked = torch.gather(order, 1, (-mark - 1).clamp(0, ranks - 1))
        named = (mark >= -ranks) & (mark < self.num_marks) & ((mark >= 0) | valid[:, None])
        return torch.where(named, torch.where(mark < 0, ranked, mark), self.num_marks)

    def maps(self, reading: MarkReading, chosen: Tensor) -> Tensor:
        """Return the maps, (N, M, h, w), of marks chosen by weights of 1, (N, M, A)."""
        maps = self._weights(reading, chosen)
        if self.contributions:
            maps = maps * torch.relu(torch.bmm(chosen @ self._readout(), reading.features.flatten(2)))
        return maps.view(*maps.shape[:2], *reading.weights.shape[2:])

    def largest_terms(self, reading: MarkReading, chosen: Tensor) -> Tensor:
        """Return the largest sum of absolute terms in each map, (N, M, 1, 1): errors are measured by it."""
        terms = self._weights(reading, chosen)
        if self.contributions:
            terms = terms * torch.bmm(chosen @ self._readout().abs(), reading.features.abs().flatten(2))
        return terms.amax(2)[:, :, None, None]

    def _weights(self, reading: MarkReading, chosen: Tensor) -> Tensor:
        """Return where the marks' parts are read, (N, M, h·w)."""
        # Products with ones and zeros, not indices: every runtime has them, and they cost next to nothing.
        of_part = (self.head.part_of[:, None] == torch.arange(reading.weights.shape[1])).to(chosen.dtype)
        return torch.bmm(chosen @ of_part, reading.weights.flatten(2))

    def _readout(self) -> Tensor:
        """Return how the features make the calibrated logits, (A, D)."""
        return self.head.readout.weight * self.scale[:, None]
