"""The axes of a photo's vector: a backbone's own vector is too long to store for every reference."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

MOST = 256
"""Limit of D, the length of an embedding."""


class Axes(NamedTuple):
    """embedding = axes · (vector − mean), before it is scaled to length 1.

    Attributes:
        mean: (C,).
        axes: (D, C), orthonormal.
        num_photos: they were fitted on; 0 where the vector is left as it is.
    """

    mean: Floats
    axes: Floats
    num_photos: int


def embedding_axes(vectors: Floats, most: int = MOST) -> Axes:
    """Return the axes that keep most of the vectors' variance; a vector that is short enough is left as it is.

    Args:
        vectors: of training photos, (n, C).
        most: limit of D; fewer photos have fewer axes.

    Raises:
        ValueError: there are fewer than three photos.
    """
    n, channels = vectors.shape
    if channels <= most:
        return Axes(np.zeros(channels), np.eye(channels), 0)
    if n < 3:
        raise ValueError(f"the axes of an embedding need at least three photos, not {n}")
    mean = vectors.mean(axis=0, dtype=np.float64)
    _, sizes, axes = np.linalg.svd(vectors - mean, full_matrices=False)
    count = min(most, int((sizes > sizes[0] * max(n, channels) * np.finfo(np.float32).eps).sum()))
    axes = axes[:count]
    # The sign of an axis is arbitrary: its largest element is positive, so that the same photos give the same file.
    largest = np.abs(axes).argmax(axis=1)
    return Axes(mean, axes * np.sign(axes[np.arange(count), largest])[:, None], n)
