"""Faithfulness of maps: remove the pixels a map ranks highest, or insert them, and measure the class's probability.

Deletion greys out the most important pixels first: with a faithful map the probability falls early (small area).
Insertion starts from a blurred image and sharpens the most important pixels first (large area). A random order is the
control: a map that is not better explains nothing.

Source: Petsiuk, Das, Saenko 2018, "RISE", arXiv:1806.07421, section 4.3.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as F

from model.contract.graph import softmax
from training.data.store import as_served
from training.evaluation.evaluate import BATCH, Evaluation
from training.evaluation.scores import Floats

STEPS = 16
"""Equal parts of the image, changed one after the other."""

Classify = Callable[[Tensor], Floats]
"""From uint8 images (n, 3, S, S) to probabilities (n, K)."""


def faithfulness_figures(
    classify: Classify, images: Tensor, maps: Mapping[str, Floats], seed: int = 0
) -> dict[str, float]:
    """Return the mean area under the deletion and insertion curves of each kind of map, and of a random order.

    Args:
        classify: the network.
        images: uint8, (n, 3, S, S).
        maps: kind → (n, h, w).
        seed: of the random order.
    """
    predicted = classify(images).argmax(axis=1)
    noise = np.random.default_rng(seed).random((len(images), 7, 7)).astype(np.float32)
    figures = {}
    for name, values in {**maps, "random": noise}.items():
        for mode in ("deletion", "insertion"):
            curve = probability_curve(classify, images, values, predicted, mode)
            figures[f"{mode}_{name}"] = float((curve[:, 1:] + curve[:, :-1]).mean() / 2)
    return figures


def faithfulness_of(evaluation: Evaluation, count: int, banner: int = 0) -> dict[str, float]:
    """Return the figures of an evaluated network on some of its images, spread over all.

    Args:
        evaluation: of the network.
        count: number of images.
        banner: rows cropped off the bottom of every photo, pixels.
    """
    chosen = np.linspace(0, len(evaluation.labels) - 1, min(count, len(evaluation.labels))).round().astype(int)
    preparation = as_served(evaluation.resize, banner)
    photos = [preparation.load(evaluation.samples[index].path)[0] for index in chosen]
    images = torch.stack([torch.from_numpy(np.array(photo)).permute(2, 0, 1) for photo in photos])
    maps = {"gradcam": evaluation.gradcam[chosen]}
    if evaluation.attention is not None:
        maps["attention"] = evaluation.attention[chosen]

    def classify(images: Tensor) -> Floats:
        return softmax(
            np.concatenate([evaluation.predict(part)[0] for part in torch.split(images, BATCH)]), evaluation.temperature
        )

    return faithfulness_figures(classify, images, maps)


def probability_curve(
    classify: Classify, images: Tensor, maps: Floats, classes: Floats, mode: Literal["deletion", "insertion"]
) -> Floats:
    """Return the probability of each image's class after each step, (n, STEPS + 1).

    Args:
        classify: the network.
        images: uint8, (n, 3, S, S).
        maps: importance of positions, (n, h, w).
        classes: whose probability is returned, (n,).
        mode: what is done to the pixels, the most important first.
    """
    rank = _importance_ranks(maps, images.shape[-1])
    blank = images.float().mean((2, 3), keepdim=True).expand(images.shape).to(torch.uint8)
    start, end = (images, blank) if mode == "deletion" else (_blurred(images), images)
    columns = []
    for step in range(STEPS + 1):
        changed = (rank < step / STEPS)[:, None]
        probabilities = classify(torch.where(changed, end, start))
        columns.append(probabilities[np.arange(len(images)), classes])
    return np.stack(columns, axis=1)


def _importance_ranks(maps: Floats, size: int) -> Tensor:
    """Return for each pixel the share of pixels that are more important, (n, S, S) in [0, 1)."""
    enlarged = interpolate(torch.from_numpy(maps.astype(np.float32))[:, None], (size, size), mode="bilinear").flatten(1)
    order = enlarged.argsort(dim=1, descending=True, stable=True)
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(size * size).expand_as(order))
    return (ranks.float() / (size * size)).view(len(maps), size, size)


def _blurred(images: Tensor) -> Tensor:
    """Return images blurred by a Gaussian of a twentieth of the side."""
    sigma = max(images.shape[-1] / 20, 1.0)
    kernel = 2 * int(2 * sigma) + 1
    blurred: Tensor = F.gaussian_blur(images, [min(kernel, images.shape[-1] // 2 * 2 - 1)] * 2, [sigma, sigma])
    return blurred
