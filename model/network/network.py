"""Backbone, attention and head as one classifier, described by one small config that travels with its weights."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from model.network.attention import ARMS, Attended
from model.network.backbone import STAGES, Backbone, Weights, create_backbone


@dataclass(frozen=True)
class NetworkConfig:
    """Everything needed to build a network again, except its weights.

    Attributes:
        backbone: one of `model.network.backbone.STAGES`.
        attention: one of `model.network.attention.ARMS`.
        num_classes: K.
        pooling: how the feature map becomes a vector; the method takes `max`.
        head: `mlp` is the method's BatchNorm → Linear → BatchNorm → ELU → Linear.
        hidden: units of the mlp.
        dropout: probability, before the last Linear.

    Raises:
        ValueError: a value that is not offered.
    """

    backbone: str
    attention: str
    num_classes: int
    pooling: Literal["max", "avg"] = "max"
    head: Literal["mlp", "linear"] = "mlp"
    hidden: int = 512
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, allowed in (("backbone", STAGES), ("attention", ARMS), ("pooling", POOLINGS), ("head", HEADS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; there are {', '.join(allowed)}")
        if self.num_classes < 2 or self.hidden < 1 or not 0 <= self.dropout < 1:
            raise ValueError("a network has at least two classes, one hidden unit and a dropout in [0, 1)")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint or a manifest."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "NetworkConfig":
        """Read what `to_dict` gave.

        Raises:
            ValueError: an unknown or missing key, or a value that is not offered.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"not a network's config: {error}") from error


POOLINGS = ("max", "avg")
HEADS = ("mlp", "linear")


class Network(nn.Module):
    """A classifier of normalised images with a spatial attention map, made of backbone, attention and head.

    Attributes:
        config: what it was built from.
        in_channels: of the head: C' of the map behind the attention.
    """

    def __init__(self, config: NetworkConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.attention = ARMS[config.attention](backbone.out_channels)
        self.in_channels = self.attention.out_channels
        self.head = _create_head(config, self.in_channels)

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
