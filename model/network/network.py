"""Backbone, attention and head as one classifier, described by one small config that travels with its weights."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from typing import Any

from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from model.contract.marks import split_mark
from model.network.attention import ARMS, Attended
from model.network.backbone import STAGES, Backbone, Weights, create_backbone
from model.network.config import STRICT, NetworkOptions
from model.network.marks import MarkHead, MarkReading


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


class Network(nn.Module):
    """A classifier of normalised images with a spatial attention map, made of backbone, attention and head.

    Attributes:
        config: what it was built from.
        in_channels: of the head: C' of the map behind the attention.
        mark_head: reads the marks; None where it was built without any.
    """

    def __init__(self, config: NetworkConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.attention = ARMS[config.attention](backbone.out_channels)
        self.in_channels = self.attention.out_channels
        self.head = _create_head(config, self.in_channels)
        self.mark_head = _create_mark_head(config, backbone)

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

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, K), of normalised images, (N, 3, H, W)."""
        return self.forward_head(self.forward_features(x).feature_map)


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
