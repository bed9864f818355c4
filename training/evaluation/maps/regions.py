"""Where things are on the network's input: a box or a mask as a region of pixels, a part as a point.

All positions are pixels of the network's square input, x to the right and y downwards, as the service prepares it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Point:
    """A visible part.

    Attributes:
        part: index into the data set's part names.
        x: pixels from the left.
        y: pixels from the top.
    """

    part: int
    x: float
    y: float


def region_of_box(box: npt.ArrayLike, size: int) -> Booleans:
    """Return the pixels whose centre lies inside a box (left, top, right, bottom), (size, size)."""
    left, top, right, bottom = np.asarray(box, dtype=np.float64)
    centres = np.arange(size) + 0.5
    rows, columns = (centres >= top) & (centres <= bottom), (centres >= left) & (centres <= right)
    return np.asarray(rows[:, None] & columns[None, :])


def box_of_region(region: Booleans) -> Floats:
    """Return the smallest box (left, top, right, bottom) around a region that is not empty, (4,)."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def value_at(values: Floats, x: Floats, y: Floats, size: int) -> Floats:
    """Return a map's value at points, read bilinearly between cell centres and held constant beyond the outer ones.

    Args:
        values: the map, (h, w), or several, (…, h, w).
        x: pixels of the input, any shape.
        y: likewise.
        size: side of the input, pixels.

    Returns:
        A value for each point, or of several maps (…, points).
    """
    height, width = values.shape[-2:]
    column = np.clip(np.asarray(x) * width / size - 0.5, 0, width - 1)
    row = np.clip(np.asarray(y) * height / size - 0.5, 0, height - 1)
    left, top = np.floor(column).astype(int), np.floor(row).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = column - left, row - top
    upper = values[..., top, left] * (1 - across) + values[..., top, right] * across
    lower = values[..., bottom, left] * (1 - across) + values[..., bottom, right] * across
    return np.asarray(upper * (1 - down) + lower * down)
