"""Where trained cells look: the middle of what moves a cell, in pixels from the middle of its window.

Paddings and strides say where a cell's window is, not which part of it the trained kernels use: a network that was
trained with other paddings, or has learnt to cover the image's border, looks beside the middle. The centroid of the
squared gradient by the pixels says where, without any label.

Source: Luo et al. 2016, arXiv:1701.04128 (effective receptive field).
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from model.contract.placing import Centres
from model.network.network import Network
from training.evaluation.figures import Figure, mean
from training.evaluation.maps.regions import Floats


def look_offsets(network: Network, photos: Tensor, centres: Mapping[str, Centres], seed: int = 0) -> dict[str, Floats]:
    """Return how far beside its window's middle each layer's middle cell looks, photo by photo.

    Args:
        network: in evaluation mode.
        photos: normalised, (n, 3, S, S).
        centres: where the windows of a layer's cells are in the middle, by layer.
        seed: of the mixture of channels that is followed.

    Returns:
        Layer → (x, y) pixels, (n, 2); NaN where the cell answers nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[Floats]] = {}
    for photo in photos:
        image = photo[None].clone().requires_grad_()
        with torch.enable_grad():
            maps = network.backbone.forward_stages(image)
        for stage, values in zip(network.backbone.stages, maps, strict=True):
            on_marks_grid = network.part_votes is not None and stage is network.backbone.stages[-1]
            if stage.name not in centres or on_marks_grid:
                continue
            row, column = values.shape[2] // 2, values.shape[3] // 2
            mixture = torch.randn(values.shape[1], generator=generator)
            (gradient,) = torch.autograd.grad(values[0, :, row, column] @ mixture, image, retain_graph=True)
            x, y, step_x, step_y = centres[stage.name]
            window = np.array([x + column * step_x, y + row * step_y])
            found.setdefault(stage.name, []).append(_centroid(gradient[0]) - window)
    return {layer: np.stack(offsets) for layer, offsets in found.items()}


def look_figures(offsets: Mapping[str, Floats]) -> dict[str, dict[str, Figure]]:
    """Return layer → `x` and `y`, the mean offsets over photos, pixels."""
    return {layer: {"x": mean(values[:, 0]), "y": mean(values[:, 1])} for layer, values in offsets.items()}


def moved(centres: Mapping[str, Centres], figures: Mapping[str, Mapping[str, Figure]]) -> dict[str, Centres]:
    """Return the centres moved to where the cells look."""
    return {
        layer: (centres[layer][0] + of["x"].value, centres[layer][1] + of["y"].value, *centres[layer][2:])
        for layer, of in figures.items()
        if np.isfinite([of["x"].value, of["y"].value]).all()
    }


def _centroid(gradient: Tensor) -> Floats:
    """Return the centroid (x, y) of a squared gradient, (3, S, S), pixels; the first pixel's middle is 0."""
    weight = gradient.double().square().sum(0)
    places = torch.arange(weight.shape[0], dtype=weight.dtype)
    middle = torch.stack([(weight.sum(0) * places).sum(), (weight.sum(1) * places).sum()]) / weight.sum()
    return middle.numpy()
