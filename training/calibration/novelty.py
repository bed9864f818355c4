"""The scale of novelty, its threshold and its quantiles: fitted to photos that the answering network did not train on.

Networks of folds differ from each other and from the one that is exported: in the scale of their logits, and in their
vectors. So a fold's photos are compared with that fold's own training photos, and its figures are set to median 0 and
spread 1 before they are joined with other folds'. The exported network takes the folds' mean median and mean spread:
it is one more network of the same recipe.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from model.contract.manifest import Novelty
from model.explain.embedding import Embedding, PrincipalAxes
from model.explain.novelty import METHOD, NoveltyFit, root
from training.calibration.outputs import Outputs

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer]

ACCEPTED = 0.95
"""Share of photos of known classes that lie below the threshold."""
QUANTILES = 101
SMALLEST = 1e-9
"""Largest spread that counts as none."""
LEAST_PHOTOS = 20
"""Fewer have no 95% quantile."""
NORMAL = 1.349
"""Quartiles of a normal distribution lie so many standard deviations apart."""


def fit_novelty(
    trained: Outputs, axes: PrincipalAxes, answered: Sequence[tuple[Outputs, PrincipalAxes, Outputs]]
) -> NoveltyFit | None:
    """Return what a score of novelty is made of; None where too few photos can be compared.

    Args:
        trained: answers of the exported network for photos that it was trained on.
        axes: of its embedding.
        answered: of a network each: its answers for its training photos, their axes, its answers for held-out photos.
    """
    figures, medians, spreads = [], [], []
    for own, own_axes, held in answered:
        parts = _parts(own, own_axes, held)
        if len(parts) < LEAST_PHOTOS:
            continue
        low, median, high = np.quantile(parts, [0.25, 0.5, 0.75], axis=0)
        spread = (high - low) / NORMAL
        if not (spread[:2] > 0).all():
            continue
        # A vector that is short enough for an embedding of its own length has nothing outside.
        figures.append(np.divide(median - parts, spread, out=np.zeros_like(parts), where=spread > SMALLEST))
        medians.append(median)
        spreads.append(spread)
    if not figures:
        return None
    mean_spread = np.mean(spreads, axis=0)
    scale = np.divide(1, mean_spread, out=np.zeros_like(mean_spread), where=mean_spread > SMALLEST)
    scores = np.concatenate(figures).sum(axis=1)
    facts = Novelty(
        method=METHOD,
        threshold=float(np.quantile(scores, ACCEPTED)),
        quantiles=tuple(np.quantile(scores, np.linspace(0, 1, QUANTILES)).tolist()),
        num_photos=len(scores),
    )
    offset = (np.mean(medians, axis=0) * scale).sum(keepdims=True)
    return NoveltyFit(_tensor(_means(trained)), _tensor(scale), _tensor(offset), facts)


def _parts(own: Outputs, axes: PrincipalAxes, held: Outputs) -> Floats:
    """Return what is added, (n, 3), each higher for a familiar photo: largest logit, cosine, and less outside."""
    near = (_root(held.pooled) @ _means(own).T).max(axis=1)
    outside = Embedding(axes).double().outside(torch.from_numpy(np.asarray(held.pooled, np.float64))).numpy()
    return np.stack([held.logits.max(axis=1).astype(np.float64), near, -outside], axis=1)


def _means(outputs: Outputs) -> Floats:
    return class_means(_root(outputs.pooled), outputs.labels, outputs.logits.shape[1])


def class_means(vectors: Floats, labels: Ints, classes: int) -> Floats:
    """Return the classes' means, (K, C), over the lengths that they would have of endless photos.

    The mean of few photos is too long by their scatter: a photo would seem farther from it than from that of many.

    Args:
        vectors: of length 1, (n, C).
        labels: (n,).
        classes: K.
    """
    sums, counts = _sums(vectors, labels, classes)
    lengths = _lengths(sums, counts, _alike(sums, counts))
    means: Floats = sums / np.maximum(counts, 1)[:, None] / lengths[:, None]
    return means


def _tensor(values: Floats) -> torch.Tensor:
    return torch.from_numpy(values).float()


def _root(pooled: npt.NDArray[np.floating]) -> Floats:
    values: Floats = root(torch.from_numpy(np.asarray(pooled, np.float64))).numpy()
    return values


def _sums(vectors: Floats, labels: Ints, classes: int) -> tuple[Floats, Ints]:
    """Return each class's sum, (K, C), and number of photos, (K,)."""
    sums = np.zeros((classes, vectors.shape[1]))
    np.add.at(sums, labels, vectors)
    return sums, np.bincount(labels, minlength=classes)


def _alike(sums: Floats, counts: Ints) -> float:
    """Return the mean inner product of two photos of a class, over the classes that have two; 1 where none has."""
    several = counts > 1
    pairs = (counts * (counts - 1))[several]
    return float(((sums[several] ** 2).sum(axis=1) - counts[several]).sum() / pairs.sum()) if len(pairs) else 1.0


def _lengths(sums: Floats, counts: Ints, alike: float) -> Floats:
    """Return the lengths of means of endless photos: roots of the mean inner product of two photos, (K,).

    Args:
        sums: of vectors of length 1, (K, C).
        counts: of the vectors, (K,).
        alike: mean inner product where there is one vector alone, or where two are not alike at all.
    """
    pairs = counts * (counts - 1)
    products = ((sums**2).sum(axis=1) - counts) / np.maximum(pairs, 1)
    return np.sqrt(np.where((pairs > 0) & (products > 0), products, alike))
