"""Where a map's cells are on the input: side by side, or where each looks.

Cell i of a map of stride s is drawn over the i-th square of s pixels, while a 3×3 convolution of stride 2 with padding
1 looks at pixel s·i. What the cell answers to, its receptive field, is far larger than either.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Centres = tuple[float, float, float, float]
"""(x, y) of the first cell, and the steps to the next, pixels of the input; the middle of the first pixel is 0."""
PIXELS = 2
"""Side of a cell of the regular grid."""


def regular_centres(cells: int, size: int) -> Centres:
    """Return the centres of a regular grid of so many cells along each side of an input of so many pixels."""
    step = size / cells
    return (step - 1) / 2, (step - 1) / 2, step, step


def at_centres(maps: npt.NDArray[np.floating[Any]], centres: Centres, size: int) -> npt.NDArray[np.float32]:
    """Return maps on a regular grid over the input, read between the true centres of their cells.

    Args:
        maps: (n, h, w).
        centres: of the cells.
        size: side of the input, pixels.

    Returns:
        (n, size / `PIXELS`, size / `PIXELS`), constant beyond the outer centres.
    """
    x, y, step_x, step_y = centres
    rows, columns = _between(maps.shape[1], y, step_y, size), _between(maps.shape[2], x, step_x, size)
    return np.asarray(rows @ maps.astype(np.float32) @ columns.T)


@lru_cache(maxsize=16)
def _between(cells: int, start: float, step: float, size: int) -> npt.NDArray[np.float32]:
    """Return the weights with which each place of the regular grid reads the cells along an axis, (places, cells).

    Kept, and read-only: one map needs them twice, and every map of a model the same.
    """
    count = max(1, size // PIXELS)
    places = (np.arange(count) + 0.5) * (size / count) - 0.5
    position = np.clip((places - start) / step, 0, cells - 1)
    weights = np.asarray(np.maximum(1 - np.abs(position[:, None] - np.arange(cells)), 0), np.float32)
    weights.flags.writeable = False
    return weights
