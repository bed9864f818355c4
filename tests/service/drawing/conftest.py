"""A photo, a map and a geometry to draw with."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.contract.geometry import Resize
from model.photo.decode import DecodedImage
from service.drawing.maps import Floats, Placement, ScaledMap, _enlarged, strip_indices

RESIZE = Resize(size=256, crop=224)


def photo(width: int, height: int) -> DecodedImage:
    """Return a grey photo."""
    return DecodedImage(Image.new("RGB", (width, height), (128, 128, 128)), width, height, "PNG")


def peak(row: int, column: int, side: int = 7) -> npt.NDArray[np.float32]:
    """Return a map with one hot cell."""
    grid = np.zeros((side, side), np.float32)
    grid[row, column] = 2.5
    return grid


def display(scaled: ScaledMap, size: int) -> Floats:
    """Return the map enlarged to the network's input, in [0, 1], float32, (size, size)."""
    enlarged: Floats = np.asarray(_enlarged(scaled.grid, (size, size)), dtype=np.float32)
    return enlarged.clip(0, 1)


def place_map(grid: Floats, placement: Placement) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return a map on the original image's pixels, and whether the network saw them.

    Args:
        grid: of a `ScaledMap`, (h, w).
        placement: the picture.

    Returns:
        values in [0, 1], 0 outside, float32, (height, width); whether the network saw the pixel, bool, same shape.
    """
    values = np.zeros((placement.height, placement.width), np.float32)
    seen = np.zeros(values.shape, np.bool_)
    for strip in placement.strips():
        left, top, right, bottom = strip
        values[top:bottom, left:right] = np.asarray(strip_indices(grid, placement, strip), np.float32) / 254
        seen[top:bottom, left:right] = True
    return values, seen
