"""Does the network use what a map shows? Change the pixels a map ranks highest, and read the class's probability.

Deletion greys out the most important pixels first: with a faithful map the probability falls early (small area).
Insertion starts from a blurred image and sharpens the most important pixels first (large area). Both make images that
no camera takes, so ROAD fills removed pixels in from their neighbours. Average drop dims the image by the map.
Every row stands beside maps that know nothing of the photo: one that is not better explains nothing.

Source: Petsiuk et al. 2018, arXiv:1806.07421, section 4.3 (deletion, insertion); Rong et al. 2022, arXiv:2202.00449
(ROAD); Chattopadhay et al. 2018, arXiv:1710.11063, section 5.1 (average drop, increase in confidence).
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

from training.evaluation.figures import Figure, mean, share
from training.evaluation.maps.chance import chance_maps
from training.evaluation.maps.classifier import Classifier, classifier_of
from training.evaluation.maps.imputation import impute
from training.evaluation.maps.localisation import enlarge

Floats = npt.NDArray[np.floating]
Values = dict[str, dict[str, Floats]]
"""Row → measure → one value a photo, (n,)."""
Score = Callable[[Tensor], Floats]
"""From images, (n, 3, S, S), to the probability of the class that each one's original is predicted as, (n,)."""

STEPS = 8
"""Equal parts of the image that are changed one after the other. On photos of birds 16 parts change the mean areas by
less than 0.01, and the differences from random maps by 0.01: a fifth of their interval at 200."""
SHARES = (0.2, 0.4, 0.6, 0.8)
"""Of the pixels, removed by ROAD."""
CHANCE = ("random", "centred_gaussian")
"""Rows of `chance_maps` that every other row is compared with."""
BATCH = 32


def faithfulness(
    classifier: Classifier, images: Tensor, maps: Mapping[str, Floats], steps: int = STEPS, visible: bool = False
) -> Values:
    """Return what each row's maps are worth for the class that the network predicts, one value a photo.

    Args:
        classifier: of the images.
        images: uint8, (n, 3, S, S).
        maps: row → (n, h, w), any grid.
        steps: of the deletion and insertion curves.
        visible: show progress.

    Returns:
        The measures of each row, (n,) each. `deletion`: area under the probability while the most relevant pixels
        become the image's mean colour; low is good. `insertion`: while they come back into the blurred image; high.
        `road_morf` and `road_lerf`: mean probability over `SHARES` of the most and of the least relevant pixels
        removed; low, high. `road`: the latter minus the former, in [-1, 1]; high. (pytorch-grad-cam's ROADCombined
        is half of it.) `average_drop` and `increase`: see `drop_and_increase`; low, high.
    """
    parts: list[Values] = []
    starts = range(0, len(images), BATCH)
    for start in tqdm(starts, desc="faithfulness", unit="batch", disable=None if visible else True, leave=False):
        batch = slice(start, start + BATCH)
        parts.append(_measured(classifier, images[batch].float(), {row: maps[row][batch] for row in maps}, steps))
    return {
        row: {name: np.concatenate([part[row][name] for part in parts]) for name in measures}
        for row, measures in parts[0].items()
    }


def faithfulness_of(model: Path, images: Tensor, maps: Mapping[str, Floats], visible: bool = False) -> Values:
    """Return `faithfulness` of a run's or an exported file's maps, beside the rows of `CHANCE`.

    Args:
        model: the run, or the exported file.
        images: uint8, as the service prepares them, (n, 3, S, S).
        maps: row → (n, h, w): `gradcam`, `attention`, …; the first one's grid is that of the random maps.
        visible: show progress.
    """
    height, width = next(iter(maps.values())).shape[1:]
    chance = chance_maps(len(images), (height, width), images.shape[-1])
    return faithfulness(classifier_of(model), images, {**maps, **{row: chance[row] for row in CHANCE}}, visible=visible)


def faithfulness_figures(values: Values) -> dict[str, Figure]:
    """Return the mean of every measure of every row, and its mean difference from each row of chance, by JSON name.

    `deletion_gradcam` is a mean, `deletion_gradcam_minus_random` the mean over photos of the difference on the same
    photo.
    """
    figures: dict[str, Figure] = {}
    for row, measures in values.items():
        for name, numbers in measures.items():
            figures[f"{name}_{row}"] = share(numbers) if name == "increase" else mean(numbers)
            for chance in CHANCE:
                if row not in CHANCE and chance in values:
                    figures[f"{name}_{row}_minus_{chance}"] = mean(numbers - values[chance][name])
    return figures


def importance_ranks(maps: Floats, size: int) -> Tensor:
    """Return how many pixels are more important than each, (n, S, S), int64; of equal ones the first in the image."""
    order = torch.from_numpy(enlarge(maps, size)).flatten(1).argsort(dim=1, descending=True, stable=True)
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(size * size).expand_as(order))
    return ranks.view(len(maps), size, size)


def area(score: Score, start: Tensor, end: Tensor, ranks: Tensor, steps: int, ends: tuple[Floats, Floats]) -> Floats:
    """Return the area under the probability while pixels change, the most important first, (n,).

    Args:
        score: of images.
        start: what all pixels are from, (n, 3, S, S).
        end: what they change into, (n, 3, S, S).
        ranks: of `importance_ranks`.
        steps: number of equal parts that change one after the other; the last may be smaller.
        ends: the score of `start` and of `end`, (n,) each.
    """
    pixels = ranks[0].numel()
    counts = [*range(0, pixels, -(-pixels // steps)), pixels]
    between = [score(torch.where((ranks < count)[:, None], end, start)) for count in counts[1:-1]]
    curve = np.stack([ends[0], *between, ends[1]], axis=1)
    found: Floats = np.trapezoid(curve, np.array(counts) / pixels, axis=1)
    return found


def road(score: Score, images: Tensor, ranks: Tensor) -> tuple[Floats, Floats]:
    """Return the mean probability over `SHARES` of the most, and of the least relevant pixels removed, (n,) each.

    Args:
        score: of images.
        images: (n, 3, S, S).
        ranks: of `importance_ranks`.

    Source: Rong et al. 2022, arXiv:2202.00449, section 4.
    """
    pixels = ranks[0].numel()
    most: list[Floats] = []
    least: list[Floats] = []
    for part in SHARES:
        count = round(part * pixels)
        for found, removed in ((most, ranks < count), (least, ranks >= pixels - count)):
            # The same noise for every row and photo: it cancels from differences, and batches do not matter.
            found.append(score(impute(images, removed, torch.Generator().manual_seed(0))))
    return np.mean(most, axis=0), np.mean(least, axis=0)


def drop_and_increase(before: Floats, after: Floats) -> tuple[Floats, Floats]:
    """Return average drop and increase in confidence of each photo, (n,) each.

    Args:
        before: probability p for the image, (n,).
        after: probability q for the image dimmed by its map, (n,).

    Returns:
        max(p - q, 0) / p, and 1 where q > p, else 0.

    Source: Chattopadhay et al. 2018, arXiv:1710.11063, section 5.1.
    """
    drop = np.maximum(before - after, 0) / np.maximum(before, np.finfo(np.float32).tiny)
    return drop, (after > before).astype(np.float64)


def dimmed(images: Tensor, maps: Floats, mean: Tensor) -> Tensor:
    """Return images times their maps, scaled to [0, 1], as the network sees them: normalised.

    Args:
        images: levels of 255, (n, 3, S, S).
        maps: (n, h, w); scaled before they are enlarged. One that is the same everywhere becomes zeros.
        mean: colour that the normalisation maps to zero, levels of 255, (1, 3, 1, 1).
    """
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    scaled = (maps - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    weights = torch.from_numpy(enlarge(scaled, images.shape[-1]))[:, None]
    return mean + weights * (images - mean)


def blurred(images: Tensor, sigma: float | None = None) -> Tensor:
    """Return images blurred by a Gaussian.

    Args:
        images: levels of 255, (n, 3, S, S), float.
        sigma: of the Gaussian, pixels; None: a twentieth of the side.
    """
    sigma = max(images.shape[-1] / 20 if sigma is None else sigma, 1.0)
    kernel = min(2 * int(2 * sigma) + 1, images.shape[-1] // 2 * 2 - 1)
    # One axis after the other: the product of both at once takes thirty times as long.
    rows = F.gaussian_blur(images, [kernel, 1], [sigma, sigma])
    found: Tensor = F.gaussian_blur(rows, [1, kernel], [sigma, sigma])
    return found


def _measured(classifier: Classifier, images: Tensor, maps: Mapping[str, Floats], steps: int) -> Values:
    """Return `faithfulness` of one batch, of float images."""
    probabilities = classifier.classify(images)
    classes = probabilities.argmax(axis=1)
    before = probabilities.max(axis=1)

    def score(changed: Tensor) -> Floats:
        found: Floats = classifier.classify(changed)[np.arange(len(classes)), classes]
        return found

    blank, soft = images.mean((2, 3), keepdim=True).expand_as(images), blurred(images)
    of_blank, of_soft = score(blank), score(soft)
    colour = torch.tensor(classifier.mean, dtype=images.dtype).view(1, 3, 1, 1)
    found: Values = {}
    for row, values in maps.items():
        ranks = importance_ranks(values, images.shape[-1])
        morf, lerf = road(score, images, ranks)
        drop, increase = drop_and_increase(before, score(dimmed(images, values, colour)))
        found[row] = {
            "deletion": area(score, images, blank, ranks, steps, (before, of_blank)),
            "insertion": area(score, soft, images, ranks, steps, (of_soft, before)),
            "road_morf": morf,
            "road_lerf": lerf,
            "road": lerf - morf,
            "average_drop": drop,
            "increase": increase,
        }
    return found
