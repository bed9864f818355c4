"""Do the maps lie on the object? Each photo's map against its box or mask, one number a photo.

Read every figure beside the rows of chance: photographers put their object in the middle, so a figure that does not
beat a centred Gaussian says nothing for the map.

Source: Zhang et al. 2018, arXiv:1608.00507 (pointing game, tolerance 15 px); Arras et al. 2022, arXiv:2003.07258
(relevance mass and rank); Choe et al. 2020, arXiv:2001.07437 (MaxBoxAccV2).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch.nn.functional import interpolate

from training.evaluation.maps.regions import Booleans, Floats, box_of_region

TOLERANCE_PX = 15
"""Of the tolerant pointing game: its source's, on the network's input."""
THRESHOLDS = 100
"""Of the boxes drawn around a map. The source takes 1,000: on 911 photos MaxBoxAccV2 is then 66.7% instead of 66.5%."""
OVERLAPS = (0.3, 0.5, 0.7)
"""Least intersection over union at which a box counts as found; MaxBoxAccV2 is their mean."""
CHUNK = 64
"""Maps that are enlarged at a time."""
BOX_GRID = 96
"""Side of the grid on which boxes are drawn around maps. On all 288 pixels of the input it takes six times as long, and
MaxBoxAccV2 of 304 photos is 66.8% instead of 66.9%."""


def localised(maps: Floats, regions: Sequence[Booleans | None]) -> dict[str, Floats]:
    """Return how each map lies on its region; NaN where a photo has none, or an empty one.

    Args:
        maps: ≥ 0, (n, h, w), any grid.
        regions: pixels of the object on the network's input, (S, S) each.

    Returns:
        `pointing` and `pointing_tolerant`: 1 where the highest cell's centre lies inside the region, or within
        `TOLERANCE_PX` of it; a map of zeros points nowhere. `energy`: share of the map's sum inside. `enrichment`:
        that share divided by the region's share of the image. `rank`: share of the region's number of highest
        pixels that lie inside. (n,) each.
    """
    names = ("pointing", "pointing_tolerant", "energy", "enrichment", "rank")
    found = {name: np.full(len(maps), np.nan) for name in names}
    size = next((len(region) for region in regions if region is not None), 1)
    shown = (enlarged for at in range(0, len(maps), CHUNK) for enlarged in enlarge(maps[at : at + CHUNK], size))
    for index, (values, region, enlarged) in enumerate(zip(maps, regions, shown, strict=True)):
        if region is None or not region.any():
            continue
        x, y = peak(values, size)
        total = enlarged.sum(dtype=np.float64)
        energy = enlarged[region].sum(dtype=np.float64) / total if total > 0 else 0.0
        count = int(region.sum())
        highest = np.argpartition(-enlarged.ravel(), count - 1)[:count]
        alive = float(values.max() > 0)
        found["pointing"][index] = alive * region[int(y), int(x)]
        found["pointing_tolerant"][index] = alive * (_distance(region, x, y) <= TOLERANCE_PX)
        found["energy"][index] = energy
        found["enrichment"][index] = energy / region.mean()
        found["rank"][index] = region.ravel()[highest].mean()
    return found


def peak(values: Floats, size: int) -> tuple[float, float]:
    """Return the centre (x, y) of a map's highest cell in pixels of an input of this size.

    A map is highest there also after bilinear enlargement.
    """
    height, width = values.shape
    row, column = divmod(int(values.argmax()), width)
    return (column + 0.5) * size / width, (row + 0.5) * size / height


def enlarge(maps: Floats, size: int) -> npt.NDArray[np.float32]:
    """Return maps (n, h, w) at (n, size, size), bilinear with half-pixel centres: as they are displayed."""
    coarse = torch.from_numpy(np.array(maps, dtype=np.float32))
    return interpolate(coarse[:, None], (size, size), mode="bilinear")[:, 0].numpy()


def overlaps(maps: Floats, boxes: Floats, size: int, thresholds: int = THRESHOLDS) -> npt.NDArray[np.float32]:
    """Return how well boxes around each map match the true one, at every threshold, (n, thresholds).

    A map is scaled to [0, 1] and cut at each threshold; of the boxes around its connected pieces, the one that
    matches best counts. NaN where a photo has no box.

    Args:
        maps: ≥ 0, (n, h, w).
        boxes: (left, top, right, bottom), pixels of the input, (n, 4); NaN where there is none.
        size: side of the input, pixels.
        thresholds: evenly spaced from 0, without 1.
    """
    found = np.full((len(maps), thresholds), np.nan, dtype=np.float32)
    for index, (values, box) in enumerate(zip(enlarge(maps, BOX_GRID), boxes, strict=True)):
        if not np.isfinite(box).all() or box[2] <= box[0] or box[3] <= box[1]:
            continue
        low, high = values.min(), values.max()
        scaled = (values - low) / max(high - low, np.finfo(np.float32).tiny)
        for step in range(thresholds):
            pieces, _ = ndimage.label(scaled >= step / thresholds)
            found[index, step] = max(
                (_overlap(_corners(piece, size), box) for piece in ndimage.find_objects(pieces)), default=0.0
            )
    return found


def max_box_accuracy(overlap: Floats, chosen: npt.NDArray[np.integer] | None = None) -> float:
    """Return MaxBoxAccV2: the mean over `OVERLAPS` of the share of boxes found, each at its best threshold.

    Args:
        overlap: of `overlaps`, (n, thresholds).
        chosen: indices of the photos to count; None: all.
    """
    part = overlap if chosen is None else overlap[chosen]
    return float(np.mean([(part >= least).mean(axis=0).max() for least in OVERLAPS]))


def best_threshold(overlap: Floats, least: float = 0.5) -> int:
    """Return the threshold, as an index, at which most boxes of these photos are found; the lowest among equals."""
    return int((overlap >= least).mean(axis=0).argmax())


def boxes_of(regions: Sequence[Booleans | None]) -> Floats:
    """Return the box around each region, (n, 4); NaN where there is none."""
    none = np.full(4, np.nan)
    return np.stack([none if region is None or not region.any() else box_of_region(region) for region in regions])


def _distance(region: Booleans, x: float, y: float) -> float:
    """Return how far a point is from the nearest pixel of a region, in pixels; 0 inside."""
    rows, columns = np.nonzero(region)
    across = np.maximum(np.abs(columns + 0.5 - x) - 0.5, 0)
    down = np.maximum(np.abs(rows + 0.5 - y) - 0.5, 0)
    return float(np.hypot(across, down).min())


def _corners(piece: tuple[slice, slice], size: int) -> Floats:
    rows, columns = piece
    return np.array([columns.start, rows.start, columns.stop, rows.stop]) * (size / BOX_GRID)


def _overlap(one: Floats, other: Floats) -> float:
    """Return intersection over union of two boxes."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    inside = float(np.prod(np.maximum(sides, 0)))
    areas = float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]))
    return inside / (areas - inside)
