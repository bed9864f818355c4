"""The head's first weights: linear discriminant analysis of the features that the starting weights give.

With few photos a class a head that starts at random spoils good features before it has learnt anything (Kumar et al.
2022, arXiv:2202.10054). This one is computed, not trained: two passes over the photos, and one linear system.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from model.explain.gradcam import evaluating
from training.data.batches import Key
from training.fit.learner import Learner

VIEWS = 2
"""Variations of each photo that the statistics are of; eight were no better."""
SCALES = torch.logspace(-3, 1, 81, dtype=torch.float64)


def start_head(learner: Learner, photos: Dataset[tuple[Tensor, int]], num_photos: int, batch_size: int) -> None:
    """Replace the weights of a linear head.

    Args:
        learner: whose recipe sets shrinkage and label smoothing; its averaged network is changed too.
        photos: that are trained on; an item is selected by (index, seed).
        num_photos: of them.
        batch_size: of the passes.
    """
    recipe, network = learner.recipe, learner.network
    keys: list[Key] = [(index, view) for view in range(VIEWS) for index in range(num_photos)]
    batches = [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
    vectors, labels = _pooled(learner, DataLoader(photos, batch_sampler=batches))
    weight, bias = discriminant(vectors, labels, network.config.num_classes, recipe.optim.head_shrinkage)
    scale = _best_scale(vectors @ weight.T + bias, labels, recipe.optim.label_smoothing)
    learner.set_head(scale * weight, scale * bias)


def discriminant(vectors: Tensor, labels: Tensor, num_classes: int, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Return weight, (K, C), and bias, (K,), of the linear discriminant between classes that are equally frequent.

    Args:
        vectors: features, (n, C), float64.
        labels: classes, (n,); every class has a photo.
        num_classes: K.
        shrinkage: share of the covariance within classes that is replaced by its mean variance, in [0, 1].

    Source: Friedman 1989, "Regularized discriminant analysis", on features of unit variance.
    """
    centre, deviation = vectors.mean(0), vectors.std(0).clamp_min(1e-6)
    scaled = (vectors - centre) / deviation
    members = F.one_hot(labels, num_classes).to(scaled)
    means = (members.T @ scaled) / members.sum(0)[:, None].clamp_min(1)
    within = scaled - means[labels]
    covariance = within.T @ within / len(within)
    covariance = covariance.lerp(
        torch.eye(len(covariance)).to(covariance) * covariance.trace() / len(covariance), shrinkage
    )
    weight = torch.linalg.solve(covariance, means.T).T
    bias = -(means * weight).sum(1) / 2
    weight = weight / deviation
    return weight, bias - weight @ centre


def _pooled(learner: Learner, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return what the head sees of every photo, (n, C) float64, and the labels, (n,)."""
    vectors, labels = [], []
    with torch.no_grad(), evaluating(learner.network):
        for inputs, targets in batches:
            maps = learner.stage_maps(learner.network, learner.normalise(inputs))
            vectors.append(learner.network.pool(learner.network.attend(maps[-1]).feature_map).double().cpu())
            labels.append(targets)
    return torch.cat(vectors), torch.cat(labels)


def _best_scale(logits: Tensor, labels: Tensor, label_smoothing: float) -> float:
    """Return the factor of the logits at which the cross-entropy is lowest: the discriminant's own is too large."""
    losses = [F.cross_entropy(logits * scale, labels, label_smoothing=label_smoothing) for scale in SCALES]
    return float(SCALES[int(torch.stack(losses).argmin())])
