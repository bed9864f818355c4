"""The axes of a photo's vector: a backbone's own is too long to keep one of every photo."""

import numpy as np
import numpy.typing as npt
import torch

from model.explain.embedding import PrincipalAxes
from training.errors import TrainingError

MOST = 256
"""Limit of D, the length of an embedding."""


def embedding_axes(vectors: npt.NDArray[np.floating], most: int = MOST) -> PrincipalAxes:
    """Return the axes that keep most of the vectors' variance; a vector that is short enough is left as it is.

    Args:
        vectors: of training photos, (n, C).
        most: limit of D; fewer photos have fewer axes.

    Raises:
        TrainingError: there are fewer than three photos, or they are all alike.
    """
    n, channels = vectors.shape
    if channels <= most:
        return PrincipalAxes(torch.zeros(channels), torch.eye(channels), 0)
    mean = vectors.mean(axis=0, dtype=np.float64)
    _, sizes, axes = np.linalg.svd(vectors - mean, full_matrices=False)
    kept = min(most, int((sizes > sizes[0] * max(n, channels) * np.finfo(np.float32).eps).sum()))
    if kept < 2:
        raise TrainingError(f"the axes of an embedding need at least three photos that differ; there are {n}")
    axes = axes[:kept]
    # The sign of an axis is arbitrary: its largest element is positive, so that the same photos give the same file.
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    return PrincipalAxes(torch.from_numpy(mean).float(), torch.from_numpy(axes * np.sign(largest)).float(), n)
