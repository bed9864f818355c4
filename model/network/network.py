"""Backbone, attention and head as one classifier, described by one small config that travels with its weights."""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import KW_ONLY
from typing import Any, NamedTuple

import torch
from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from model.contract.marks import split_mark
from model.network.attention import ARMS, Attended
from model.network.backbone import STAGES, Backbone, Weights, create_backbone
from model.network.config import STRICT, NetworkOptions
from model.network.marks import MarkHead, MarkReading, grid_matrices, input_size
from model.network.votes import PartVotes, Votes


@dataclass(frozen=True, config=STRICT)
class NetworkConfig(NetworkOptions):
    """Everything needed to build a network again, except its weights.

    Attributes:
        num_classes: K.
        marks: names of the A marks, `part: value`; none: the network has no mark head.

    Raises:
        ValidationError: a ValueError; a value that is not offered.
    """

    _: KW_ONLY
    num_classes: int = Field(ge=2)
    marks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, allowed in (("backbone", STAGES), ("attention", ARMS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; there are {', '.join(allowed)}")
        for mark in self.marks:
            split_mark(mark)
        stages = len(STAGES[self.backbone]) + 1  # `Backbone.maps`
        for name in ("mark_places", "mark_values", "mark_local"):
            if self.marks and (beyond := [i for i in getattr(self, name) if not -stages <= i < stages]):
                raise ValueError(f"{name} names stage {beyond[0]}; {self.backbone} has {stages}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint or a manifest."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "NetworkConfig":
        """Read what `to_dict` returned.

        Raises:
            ValueError: an unknown or missing key, or a value that is not offered.
        """
        try:
            # A manifest's lists stand for tuples.
            return cls(**_with_tuples(values))
        except ValidationError as error:
            faults = [": ".join([*map(str, each["loc"]), each["msg"]]) for each in error.errors()]
            raise ValueError(f"not a network's config: {'; '.join(faults)}") from error


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with tuples for the lists of a manifest."""
    return {
        name: tuple(value) if isinstance(value, list) else _with_tuples(value) if isinstance(value, dict) else value
        for name, value in values.items()
    }


class Answer(NamedTuple):
    """What a network makes of the maps of its backbone.

    Attributes:
        attended: the last map behind the attention.
        pooled: the vector before the head, (N, C').
        of_head: the head's logits, (N, K).
        votes: of the parts, with the reading of the marks; None where they have none.
    """

    attended: Attended
    pooled: Tensor
    of_head: Tensor
    votes: Votes | None = None

    @property
    def logits(self) -> Tensor:
        """The head's and the votes', (N, K)."""
        return self.of_head if self.votes is None else self.of_head + self.votes.logits


class Network(nn.Module):
    """A classifier of normalised images with a spatial attention map, made of backbone, attention and head.

    Attributes:
        config: what it was built from.
        in_channels: of the head: C' of the map behind the attention.
        mark_head: reads the marks; None where it was built without any.
        part_votes: of the parts on the classes; None where they have none.
    """

    def __init__(self, config: NetworkConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.attention = ARMS[config.attention](backbone.out_channels)
        self.in_channels = self.attention.out_channels
        self.head = _create_head(config, self.in_channels)
        self.mark_head = _create_mark_head(config, backbone)
        self.part_votes = _create_votes(config, self.mark_head)

    @property
    def has_attention(self) -> bool:
        """Whether the arm has a spatial attention map."""
        return self.attention.has_attention

    def forward_features(self, x: Tensor, after: str | None = None) -> Attended:
        """Return feature map, attention and channel weights.

        Args:
            x: normalised images, (N, 3, H, W), or the features of the backbone's step `after`.
            after: name of the step to continue from.
        """
        return self.attend(self.backbone(x, after))

    def attend(self, feature_map: Tensor) -> Attended:
        """Apply the attention to the backbone's last feature map, (N, C, h, w)."""
        attended: Attended = self.attention(feature_map)
        return attended

    def forward_head(self, feature_map: Tensor) -> Tensor:
        """Return the logits, (N, K), of a map behind the attention, (N, C', h, w)."""
        return self.classify(self.pool(feature_map))

    def pool(self, feature_map: Tensor) -> Tensor:
        """Return one vector a map: (N, C', h, w) → (N, C')."""
        # amax, not adaptive_max_pool2d: the latter's gradient has no ONNX translation.
        return feature_map.amax((2, 3)) if self.config.pooling == "max" else feature_map.mean((2, 3))

    def classify(self, pooled: Tensor) -> Tensor:
        """Return the logits of pooled vectors: (N, C') → (N, K)."""
        logits: Tensor = self.head(pooled)
        return logits

    def read_marks(self, maps: Sequence[Tensor]) -> MarkReading:
        """Return the marks of what `Backbone.forward_maps` returns.

        Raises:
            ValueError: the network has no mark head.
        """
        if self.mark_head is None:
            raise ValueError("the network has no marks")
        reading: MarkReading = self.mark_head(maps)
        return reading

    def answer(self, maps: Sequence[Tensor]) -> Answer:
        """Return the logits and where they come from.

        Args:
            maps: as `Backbone.forward_maps` returns them; where parts vote, from before the first that the marks read.
        """
        attended = self.attend(maps[-1])
        pooled = self.pool(attended.feature_map)
        of_head = self.classify(pooled)
        if self.part_votes is None:
            return Answer(attended, pooled, of_head)
        # In training the votes move neither the places nor what is read there: words and decision share one reading.
        with torch.no_grad() if self.training else nullcontext():
            reading = self.read_marks(maps)
        return Answer(attended, pooled, of_head, self.part_votes(reading))

    def reading_of(self, answer: Answer, maps: Sequence[Tensor]) -> MarkReading:
        """Return the marks of the maps that were answered: as the parts' votes read them, or read now.

        Raises:
            ValueError: the network has no mark head.
        """
        return self.read_marks(maps) if answer.votes is None else answer.votes.reading

    def on_grid(self, maps: Tensor) -> Tensor:
        """Return maps of the last stage's cells, (N, T, h, w), on the marks' grid, (N, T, grid, grid)."""
        stage, grid = self.backbone.stages[-1], self.config.mark_grid
        size = input_size(maps.shape[-1], stage)
        rows, columns = grid_matrices(maps, stage, grid, size, self.config.mark_shift)
        # Both axes in one product, as these are few maps of few cells.
        return (maps.flatten(2) @ torch.kron(rows, columns).T).view(*maps.shape[:2], grid, grid)

    def attention_map(self, answer: Answer) -> Tensor | None:
        """Return the spatial attention, (N, h, w), on the grid of the class's maps; None in arms without one."""
        attention = answer.attended.attention
        if attention is None or answer.votes is None:
            return attention
        return self.on_grid(attention[:, None])[:, 0]

    def class_maps(self, found: Tensor, votes: Votes | None, cotangent: Tensor) -> Tensor:
        """Return where y = sum_k cotangent_k · logit_k comes from, before the ReLU.

        Args:
            found: what each cell of the last stage adds to y through the head, (N, T, h, w).
            votes: of the parts.
            cotangent: (N, T, K).

        Returns:
            (N, T, h, w); where parts vote, (N, T, grid, grid).
        """
        if votes is None:
            return found
        # A finer cell holds so much less of the sum.
        share = found.shape[2] * found.shape[3] / self.config.mark_grid**2
        return share * self.on_grid(found) + votes.maps(cotangent)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, K), of normalised images, (N, 3, H, W)."""
        return self.answer(self.backbone.forward_maps(x)).logits


def build_network(config: NetworkConfig, weights: Weights = None) -> Network:
    """Return a network with a fresh head and attention.

    Args:
        config: what to build.
        weights: of the backbone, as for `create_backbone`.

    Raises:
        WeightsError: the backbone's weights cannot be loaded or are of another network.
    """
    return Network(config, create_backbone(config.backbone, weights))


def _create_head(config: NetworkConfig, in_channels: int) -> nn.Sequential:
    if config.head == "linear":
        return nn.Sequential(nn.Dropout(config.dropout), nn.Linear(in_channels, config.num_classes))
    return nn.Sequential(
        nn.BatchNorm1d(in_channels),
        nn.Linear(in_channels, config.hidden),
        nn.BatchNorm1d(config.hidden),
        nn.ELU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden, config.num_classes),
    )


def _create_mark_head(config: NetworkConfig, backbone: Backbone) -> MarkHead | None:
    return MarkHead(config.marks, backbone.maps, config) if config.marks else None


def _create_votes(config: NetworkConfig, marks: MarkHead | None) -> PartVotes | None:
    if marks is None or not config.mark_votes:
        return None
    return PartVotes(len(marks.parts), config.mark_width, config.num_classes, config.mark_votes)
