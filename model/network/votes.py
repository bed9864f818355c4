"""Parts vote: what is read at a part speaks for some classes and against others, at the place where it is read.

A vote is a linear reading of the features that the mark head pools at a part: weight(class, part) · sum over places of
where(part, place) · features(place). The logits are the head's and the sum of the votes. So the gradient by the
features times the features, which is where a vote comes from, is known without differentiating.

Source: this project. Part models classify by parts that are annotated (Branson et al. 2014, arXiv:1406.2952); these are
found by a table class × mark alone.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.network.marks import EPSILON, MarkReading


class Votes(NamedTuple):
    """What the parts say about the classes.

    Attributes:
        logits: what they add up to, (N, K).
        weight: of what is read at each part, (K, P · D).
        reading: of the parts.
    """

    logits: Tensor
    weight: Tensor
    reading: MarkReading

    def maps(self, cotangent: Tensor) -> Tensor:
        """Return what each place adds to y = sum_k cotangent_k · logit_k, (N, T, K) → (N, T, h, w), of any sign.

        It is the sum over features of dy/dfeature · feature: Grad-CAM without its mean over the places, as these
        weigh differently.
        """
        weights, features = self.reading.weights.flatten(2), self.reading.features.flatten(2)
        count, targets = cotangent.shape[:2]
        directions = (cotangent @ self.weight).view(count, -1, features.shape[1])
        values = torch.bmm(directions, features).view(count, targets, *weights.shape[1:])
        return (values * weights[:, None]).sum(2).view(count, targets, *self.reading.weights.shape[2:])


class PartVotes(nn.Module):
    """The linear reading of the votes.

    Args:
        num_parts: P.
        width: number D of features that are read at a place.
        num_classes: K.
        factor: by which the votes, which learn to name the class by themselves, stand beside the head.
    """

    def __init__(self, num_parts: int, width: int, num_classes: int, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.norm = nn.BatchNorm1d(num_parts * width, EPSILON, affine=False)
        self.layer = nn.Linear(num_parts * width, num_classes)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, reading: MarkReading) -> Votes:
        """Return the votes on what was read."""
        pooled = torch.bmm(reading.weights.flatten(2), reading.features.flatten(2).transpose(1, 2)).flatten(1)
        mean, variance = self.norm.get_buffer("running_mean"), self.norm.get_buffer("running_var")
        if self.training:
            self.norm(pooled.detach())  # keeps the statistics
            variance, mean = torch.var_mean(pooled.detach(), 0)
        # The norm is folded into the weights: of the features as they are, the map is one product.
        weight = self.factor * self.layer.weight * (variance + EPSILON).rsqrt()
        bias = self.factor * self.layer.bias - weight @ mean
        return Votes(pooled @ weight.T + bias, weight, reading)

    def own(self, votes: Votes) -> Tensor:
        """Return the logits by which the votes learn to name the class by themselves, (N, K)."""
        return votes.logits / self.factor
