"""Localisation by maps: the pointing game, and the share of a map's energy inside the box.

The baseline is a centred Gaussian, which does not depend on the image: objects tend to be in the middle of photos, so
a map is informative only if its figures are better.

Source: Zhang et al. 2018, "Top-down neural attention by excitation backprop", arXiv:1608.00507 (pointing game).
"""

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import interpolate

from training.evaluation.scores import Floats

GAUSSIAN_SIGMA = 0.25
"""Of the centred Gaussian, as a fraction of the image's side."""
CHUNK = 64


def localisation_figures(gradcam: Floats, attention: Floats | None, boxes: Floats, size: int) -> dict[str, float]:
    """Return the localisation figures over the images that have a box.

    Args:
        gradcam: maps of the predicted class, (n, h, w).
        attention: maps, (n, h, w), or None.
        boxes: (left, top, right, bottom) in pixels of the network's input, (n, 4); NaN where there is none.
        size: side S of the network's input, pixels.

    Returns:
        Figures by name; empty where no image has a box.
    """
    # Neither NaN nor a box that the crop cuts off entirely.
    known = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if not known.any():
        return {}
    boxes = boxes[known]
    gaussian = np.broadcast_to(centred_gaussian(size), (len(boxes), size, size))
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    figures = {"boxes": float(len(boxes)), "box_area": float((areas / size**2).mean())}
    maps = {"gradcam": gradcam[known], "gaussian": gaussian}
    if attention is not None:
        maps["attention"] = attention[known]
    hits = {name: pointing_hits(values, boxes, size) for name, values in maps.items()}
    figures["pointing_game"] = float(hits["gradcam"].mean())
    figures["centred_gaussian"] = float(hits["gaussian"].mean())
    if attention is not None:
        figures["pointing_game_attention"] = float(hits["attention"].mean())
    for name, values in maps.items():
        figures[f"energy_{name}"] = float(energy_in_box(values, boxes, size).mean())
    figures["zero_maps"] = float((maps["gradcam"].max(axis=(1, 2)) <= 0).mean())
    return figures


def pointing_hits(maps: Floats, boxes: Floats, size: int) -> npt.NDArray[np.bool_]:
    """Return whether the highest point of each map lies inside its box, (n,); False for a map of zeros.

    Args:
        maps: (n, h, w), any grid.
        boxes: in pixels of the input, (n, 4).
        size: side of the input, pixels.
    """
    _, height, width = maps.shape
    flat = maps.reshape(len(maps), -1)
    # Bilinear enlargement keeps the maximum at the centre of the highest cell.
    row, column = np.divmod(flat.argmax(axis=1), width)
    x, y = (column + 0.5) * size / width, (row + 0.5) * size / height
    inside = (x >= boxes[:, 0]) & (x <= boxes[:, 2]) & (y >= boxes[:, 1]) & (y <= boxes[:, 3])
    result: npt.NDArray[np.bool_] = inside & (flat.max(axis=1) > 0)
    return result


def energy_in_box(maps: Floats, boxes: Floats, size: int) -> Floats:
    """Return the share of each map's sum that lies inside its box, (n,); 0 for a map of zeros."""
    shares = []
    centres = torch.arange(size) + 0.5
    for at in range(0, len(maps), CHUNK):
        coarse = torch.from_numpy(maps[at : at + CHUNK].astype(np.float32))
        enlarged = interpolate(coarse[:, None], (size, size), mode="bilinear")[:, 0]  # as maps are displayed
        box = torch.from_numpy(boxes[at : at + CHUNK].astype(np.float32))
        columns = (centres >= box[:, :1]) & (centres <= box[:, 2:3])
        rows = (centres >= box[:, 1:2]) & (centres <= box[:, 3:4])
        inside = (enlarged * (rows[:, :, None] & columns[:, None, :])).sum((1, 2))
        shares.append(inside / enlarged.sum((1, 2)).clamp_min(torch.finfo(torch.float32).tiny))
    result: Floats = torch.cat(shares).numpy()
    return result


def centred_gaussian(size: int) -> Floats:
    """Return a Gaussian in the middle of a square of `size` pixels."""
    distance = (np.arange(size) + 0.5) / size - 0.5
    profile = np.exp(-0.5 * (distance / GAUSSIAN_SIGMA) ** 2)
    result: Floats = np.outer(profile, profile).astype(np.float32)
    return result
