"""The vector of a photo: what the network pooled, on its principal axes over training photos, of length 1."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

MAX_SIZE = 256
"""D at most."""


class PrincipalAxes(NamedTuple):
    """What an embedding is made of.

    Attributes:
        mean: of the pooled vectors, (C,).
        axes: orthonormal directions, (D, C), that of the largest variance first.
        num_photos: of how many photos they are.
    """

    mean: Tensor
    axes: Tensor
    num_photos: int


def principal_axes(pooled: Tensor) -> PrincipalAxes:
    """Return the principal axes of pooled vectors, (n, C), at most `MAX_SIZE`.

    Raises:
        ValueError: there are fewer than two vectors, or they are all the same.
    """
    vectors = pooled.double()
    mean = vectors.mean(0)
    if len(vectors) < 2 or not bool((vectors != vectors[0]).any()):
        raise ValueError("principal axes need photos that differ")
    _, _, axes = torch.linalg.svd(vectors - mean, full_matrices=False)
    axes = axes[: min(MAX_SIZE, len(vectors) - 1)]
    # Either direction is right: the one is taken whose largest entry is positive, on every machine.
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return PrincipalAxes(mean.float(), (axes * largest.sign()).float(), len(vectors))


class Embedding(nn.Module):
    """Makes vectors of length 1 whose inner product says how alike two photos are.

    Attributes:
        num_photos: as in `PrincipalAxes`.
    """

    mean: Tensor
    axes: Tensor

    def __init__(self, given: PrincipalAxes) -> None:
        super().__init__()
        self.register_buffer("mean", given.mean.clone(), persistent=False)
        self.register_buffer("axes", given.axes.clone(), persistent=False)
        self.num_photos = given.num_photos

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the vectors, (N, D), of pooled ones, (N, C)."""
        return functional.normalize((pooled - self.mean) @ self.axes.T, dim=1)
