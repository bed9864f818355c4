"""The vector of a photo: what the network pooled, on the principal axes of training photos, of length 1."""

from typing import NamedTuple

from torch import Tensor, nn

SMALLEST = 1e-12
"""Least length that a vector is divided by."""


class PrincipalAxes(NamedTuple):
    """What an embedding is made of.

    Attributes:
        mean: of the pooled vectors, (C,).
        axes: orthonormal directions, (D, C).
        num_photos: of how many photos they are; 0 where the vector is left as it is.
    """

    mean: Tensor
    axes: Tensor
    num_photos: int


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
        y = self._along(pooled)
        # Torch's own function is exported in twice as many steps.
        return y / (y * y).sum(1, keepdim=True).sqrt().clamp_min(SMALLEST)

    def outside(self, pooled: Tensor) -> Tensor:
        """Return the length of what the axes leave out of pooled vectors, (N, C) → (N,)."""
        centred, y = pooled - self.mean, self._along(pooled)
        return ((centred * centred).sum(1) - (y * y).sum(1)).clamp_min(0).sqrt()

    def _along(self, pooled: Tensor) -> Tensor:
        return (pooled - self.mean) @ self.axes.T
