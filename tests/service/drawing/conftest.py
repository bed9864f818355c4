"""A photo, a map and a geometry to draw with."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.contract.geometry import Resize
from model.photo.decode import DecodedImage

RESIZE = Resize(size=256, crop=224)


def photo(width: int, height: int) -> DecodedImage:
    """Return a grey photo."""
    return DecodedImage(Image.new("RGB", (width, height), (128, 128, 128)), width, height, "PNG")


def peak(row: int, column: int, side: int = 7) -> npt.NDArray[np.float32]:
    """Return a map with one hot cell."""
    grid = np.zeros((side, side), np.float32)
    grid[row, column] = 2.5
    return grid
