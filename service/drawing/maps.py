"""Maps ready for display: scaling, placing on the original image, colour.

Everything per pixel is done by Pillow in 8 bits or single floats, outside the interpreter lock, and in strips where
the image is large. The display scaling is that of pytorch-grad-cam (bilinear upsampling to the network's input, then
min-max), so that pictures can be compared; the raw range is kept, because min-max makes a flat map vivid.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from model.contract.geometry import Resize
from model.contract.placing import Centres, at_centres
from service.drawing.colormaps import COLORMAPS
from service.errors import InvalidOption

Floats = npt.NDArray[np.float32]

EPS = 1e-7
FLAT_RANGE = 0.02
"""An attention map whose values differ by less than this distinguishes no place from another."""
UNSEEN = 255
"""Palette index of pixels that the network did not see: outside the centre crop. The map uses 0 to 254."""
UNSEEN_COLOUR = (96, 96, 96)
_NOT_UNSEEN = [*range(UNSEEN), UNSEEN - 1]
STRIP_PIXELS = 1_000_000


@dataclass(frozen=True)
class ScaledMap:
    """A map ready for display.

    Attributes:
        grid: values of the map's own cells, or on the finer regular grid that they are placed on, float32, (h, w),
            scaled so that the map enlarged to the network's input spans [0, 1]; single cells may be slightly outside.
        min: least raw value.
        max: greatest raw value.
        is_zero: no positive evidence anywhere.
        is_flat: raw values differ by less than `FLAT_RANGE`; meaningful for attention, whose unit is fixed.
    """

    grid: Floats
    min: float
    max: float
    is_zero: bool
    is_flat: bool


def scale_map(values: npt.ArrayLike, size: int = 224, centres: Centres | None = None) -> ScaledMap:
    """Scale a raw map for display: bilinear upsampling (half-pixel centres), then one min-max with eps 1e-7.

    Args:
        values: raw map, (h, w). Not-a-number counts as zero.
        size: side of the network's input, pixels, where least and greatest are taken.
        centres: where the cells look; None to place them side by side.

    Source: pytorch-grad-cam, `scale_cam_image`; enlarging and scaling are linear, so their order does not matter.
    """
    raw = np.nan_to_num(np.asarray(values, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    placed = raw if centres is None else at_centres(raw[None], centres, size)[0]
    enlarged = np.asarray(_enlarged(placed, (size, size)))
    low, high = float(enlarged.min()), float(enlarged.max())
    grid = (placed - np.float32(low)) / np.float32(high - low + EPS)
    least, greatest = float(raw.min()), float(raw.max())
    return ScaledMap(grid, least, greatest, is_zero=greatest <= 0, is_flat=greatest - least < FLAT_RANGE)


def _enlarged(grid: Floats, size: tuple[int, int], box: tuple[float, float, float, float] | None = None) -> Image.Image:
    """Return a map enlarged to (width, height) as an image of floats."""
    return Image.fromarray(np.ascontiguousarray(grid)).resize(size, Image.Resampling.BILINEAR, box=box)


# ── geometry ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Placement:
    """Position of a map on a picture of the original image.

    Attributes:
        width: of the picture, pixels.
        height: of the picture, pixels.
        seen: the part that the network saw, in the picture's pixels: (left, top, right, bottom).
    """

    width: int
    height: int
    seen: tuple[float, float, float, float]

    @classmethod
    def on(cls, resize: Resize, width: int, height: int, size: int | None = None) -> "Placement":
        """Return the placement on an image of these original sides, shown with its longer side at `size`."""
        factor = 1.0 if size is None else size / max(width, height)
        shown = max(1, round(width * factor)), max(1, round(height * factor))
        left, top, right, bottom = resize.source_box(width, height)
        x, y = shown[0] / width, shown[1] / height
        return cls(*shown, (left * x, top * y, right * x, bottom * y))

    @property
    def inside(self) -> tuple[int, int, int, int]:
        """The pixels whose centres the network saw; at least one."""
        left, top, right, bottom = self.seen
        x, y = _centres(left, right, self.width), _centres(top, bottom, self.height)
        return x[0], y[0], x[1], y[1]

    def strips(self) -> Iterator[tuple[int, int, int, int]]:
        """Cut `inside` into strips of rows, to bound the memory."""
        left, top, right, bottom = self.inside
        rows = max(1, STRIP_PIXELS // (right - left))
        for y in range(top, bottom, rows):
            yield left, y, right, min(y + rows, bottom)


def _centres(start: float, stop: float, length: int) -> tuple[int, int]:
    first = min(max(math.ceil(start - 0.5), 0), length - 1)
    return first, max(first + 1, min(math.ceil(stop - 0.5), length))


def strip_indices(grid: Floats, placement: Placement, strip: tuple[int, int, int, int]) -> Image.Image:
    """Return the palette indices, 0 to 254, of one strip: an image of mode L."""
    return strip_levels(grid, placement, strip).point(_NOT_UNSEEN)


def strip_levels(grid: Floats, placement: Placement, strip: tuple[int, int, int, int]) -> Image.Image:
    """Return the indices of one strip where no pixel is unseen: 255 means 254, as in `shades_of`."""
    left, top, right, bottom = placement.seen
    x, y = grid.shape[1] / (right - left), grid.shape[0] / (bottom - top)
    width, height = float(grid.shape[1]), float(grid.shape[0])
    box = (
        min(max((strip[0] - left) * x, 0.0), width),
        min(max((strip[1] - top) * y, 0.0), height),
        max(min((strip[2] - left) * x, width), 0.0),
        max(min((strip[3] - top) * y, height), 0.0),
    )
    # Pillow clips to 0…255 and truncates. Enlarged beyond the network's input, a peak exceeds 1.
    values = _enlarged(grid * np.float32(254) + np.float32(0.5), (strip[2] - strip[0], strip[3] - strip[1]), box)
    return values.convert("L")


# ── colour ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def palette_of(colormap: str) -> bytes:
    """Return the colours of all palette indices: 255 of the colormap, then the unseen; RGB, 768 bytes.

    Raises:
        InvalidOption: no such colormap.
    """
    try:
        table = COLORMAPS[colormap]
    except KeyError:
        raise InvalidOption(f"There is no colormap {colormap!r}; there are {', '.join(COLORMAPS)}.") from None
    return bytes(table[np.rint(np.linspace(0, 255, 255)).astype(int)].tobytes()) + bytes(UNSEEN_COLOUR)


@cache
def shades_of(colormap: str) -> bytes:
    """Return the colours of `strip_levels`; else like `palette_of`."""
    seen = palette_of(colormap)[: 3 * UNSEEN]
    return seen + seen[-3:]


def coloured(indices: Image.Image, palette: bytes) -> Image.Image:
    """Make a palette image of indices, in place, and return it."""
    indices.putpalette(palette)
    return indices


def heatmap(scaled: ScaledMap, placement: Placement, colormap: str = "turbo") -> Image.Image:
    """Return the map in colour, an 8-bit palette image; what the network did not see is transparent grey."""
    result = Image.new("L", (placement.width, placement.height), UNSEEN)
    for strip in placement.strips():
        result.paste(strip_indices(scaled.grid, placement, strip), strip[:2])
    result = coloured(result, palette_of(colormap))
    if placement.inside != (0, 0, placement.width, placement.height):
        result.info["transparency"] = UNSEEN
    return result
