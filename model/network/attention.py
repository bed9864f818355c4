"""The attention modules of the comparison, from none to the Grad-CAM-guided channel-spatial one.

Source: Xu et al. 2021, "Grad-CAM guided channel-spatial attention module for fine-grained visual
classification", arXiv:2101.09666; squeeze-and-excitation: arXiv:1709.01507; CBAM: arXiv:1807.06521.
"""

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn

REDUCTION = 16
"""Channels of the feature map for each hidden unit of a channel gate."""


class Attended(NamedTuple):
    """The outputs of an attention module.

    Attributes:
        feature_map: X', the map the head sees and Grad-CAM explains, (N, C', h, w).
        attention: S, the spatial attention map in [0, 1], (N, h, w); None in arms without one.
        channel_weights: w, a distribution over the backbone's C channels, (N, C); None in arms without one.
    """

    feature_map: Tensor
    attention: Tensor | None = None
    channel_weights: Tensor | None = None


class Attention(nn.Module):
    """An arm: takes a feature map, (N, C, h, w), and returns `Attended`.

    Args:
        channels: C.

    Attributes:
        has_attention: whether it has a spatial attention map.
        out_channels: C' of the map that it returns.
    """

    has_attention = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels


class GatedAttention(Attention):
    """An arm with a gate: two linear layers over the channels with a bottleneck between, (N, C) → (N, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.gate = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(channels, max(1, channels // REDUCTION)),
                relu=nn.ReLU(),
                fc2=nn.Linear(max(1, channels // REDUCTION), channels),
            )
        )


class NoAttention(Attention):
    """The plain network: the feature map is returned unchanged."""

    def forward(self, x: Tensor) -> Attended:
        """Return the feature map, (N, C, h, w), untouched."""
        return Attended(x)


class SqueezeExcite(GatedAttention):
    """Squeeze-and-excitation: channels scaled by a sigmoid gate of their means.

    Source: Hu et al. 2018, arXiv:1709.01507.
    """

    def forward(self, x: Tensor) -> Attended:
        """Return the feature map, (N, C, h, w), with each channel scaled."""
        return Attended(x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None])


class CBAM(GatedAttention):
    """Convolutional block attention: a channel gate of means and maxima, then a 7×7 spatial gate.

    Source: Woo et al. 2018, arXiv:1807.06521.
    """

    has_attention = True

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.spatial = nn.Conv2d(2, 1, kernel_size=7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Attended:
        """Return the feature map, (N, C, h, w), gated by channel and then by position, and the latter gate."""
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))) + self.gate(x.amax((2, 3))))[:, :, None, None]
        summary = torch.stack([x.mean(1), x.amax(1)], dim=1)
        attention = torch.sigmoid(self.spatial(summary))
        return Attended(x * attention, attention[:, 0])


class ChannelAttention(GatedAttention):
    """The guided module's channel weights alone: w rescales the channels.

    w is a distribution, so its mean is 1/C; it is multiplied by C, for values of 1/C drown in the
    epsilon of the head's batch normalisation.
    """

    def forward(self, x: Tensor) -> Attended:
        """Return the feature map, (N, C, h, w), with each channel scaled by C·w, and w."""
        weights = channel_weights(self.gate, x)
        return Attended(x * (weights * self.out_channels)[:, :, None, None], channel_weights=weights)


class SpatialAttention(Attention):
    """The guided module's spatial map alone: the weights of its sum are learnt, the same for every image."""

    has_attention = True

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.project = nn.Conv2d(channels, 1, kernel_size=1)

    def forward(self, x: Tensor) -> Attended:
        """Return the feature map, (N, C, h, w), scaled at each position by S, and S."""
        attention = torch.sigmoid(self.project(x))
        return Attended(x * attention, attention[:, 0])


class MixedAttention(Attention):
    """Channel and spatial attention side by side, their maps concatenated to 2C channels."""

    has_attention = True

    def __init__(self, channels: int) -> None:
        super().__init__(2 * channels)
        self.channel = ChannelAttention(channels)
        self.spatial = SpatialAttention(channels)

    def forward(self, x: Tensor) -> Attended:
        """Return both scaled feature maps, (N, 2C, h, w), S and w."""
        channel, spatial = self.channel(x), self.spatial(x)
        both = torch.cat([channel.feature_map, spatial.feature_map], dim=1)
        return Attended(both, spatial.attention, channel.channel_weights)


class GuidedAttention(GatedAttention):
    """Channel-spatial attention whose channel weights Grad-CAM guides in training.

    `w = softmax(fc2(relu(fc1(GAP(X)))))` over the channels, `S = sigmoid(sum_k w_k X_k)`, `X' = X · S`:
    no convolution, no residual, and w does not rescale the channels itself.

    Source: Xu et al. 2021, arXiv:2101.09666.
    """

    has_attention = True

    def forward(self, x: Tensor) -> Attended:
        """Return the feature map, (N, C, h, w), scaled at each position by S, S, and w."""
        weights = channel_weights(self.gate, x)
        # One matrix product: the weighted channels, a copy of the feature map, never exist.
        attention = torch.sigmoid(torch.bmm(weights[:, None], x.flatten(2))).view(x.shape[0], *x.shape[2:])
        return Attended(x * attention[:, None], attention, weights)


def channel_weights(gate: nn.Module, x: Tensor) -> Tensor:
    """Return w, a distribution over the channels of a feature map: (N, C, h, w) → (N, C)."""
    return torch.softmax(gate(x.mean((2, 3))), dim=1)


ARMS: dict[str, type[Attention]] = {
    "none": NoAttention,
    "se": SqueezeExcite,
    "cbam": CBAM,
    "channel": ChannelAttention,
    "spatial": SpatialAttention,
    "mixed": MixedAttention,
    "guided": GuidedAttention,
}
"""Name of an arm → its module, built with the backbone's number of channels."""
