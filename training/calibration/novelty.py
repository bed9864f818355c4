"""The scale of novelty, its threshold and its quantiles: fitted to photos that the answering network did not train on.

Networks of folds differ from each other and from the one that is exported: in the scale of their logits, and in their
vectors. So a fold's photos are compared with means of that fold's photos alone, each without the photo itself, and
its figures are set to median 0 and spread 1 before they are joined with other folds'. The exported network takes the
folds' mean median and mean spread: it is one more network of the same recipe.
"""

import numpy as np
import numpy.typing as npt
import torch

from model.contract.manifest import Novelty
from model.explain.novelty import METHOD, NoveltyFit, root
from training.calibration.outputs import Outputs

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer]

ACCEPTED = 0.95
"""Share of photos of known classes that lie below the threshold."""
QUANTILES = 101
LEAST_PHOTOS = 20
"""Fewer have no 95% quantile."""
NORMAL = 1.349
"""Quartiles of a normal distribution lie so many standard deviations apart."""


def fit_novelty(trained: Outputs, held: Outputs) -> NoveltyFit | None:
    """Return what a score of novelty is made of; None where too few photos can be compared.

    Args:
        trained: answers of the exported network for training photos.
        held: answers for photos that were not trained on, of the same network or of folds.
    """
    classes = trained.logits.shape[1]
    means = class_means(_root(trained.pooled), trained.labels, classes)
    figures, medians, spreads = [], [], []
    for fold in np.unique(held.fold):
        own = held.fold == fold
        vectors, labels = _root(held.pooled[own]), held.labels[own]
        near = cosines(vectors, means) if fold == 0 else cosines_without_itself(vectors, labels, classes)
        pair = np.stack([held.logits[own].max(axis=1).astype(np.float64), near], axis=1)
        pair = pair[np.isfinite(near)]
        if len(pair) < LEAST_PHOTOS:
            continue
        low, median, high = np.quantile(pair, [0.25, 0.5, 0.75], axis=0)
        spread = (high - low) / NORMAL
        if not (spread > 0).all():
            continue
        figures.append((median - pair) / spread)
        medians.append(median)
        spreads.append(spread)
    if not figures:
        return None
    scale = 1 / np.mean(spreads, axis=0)
    scores = np.concatenate(figures).sum(axis=1)
    facts = Novelty(
        method=METHOD,
        threshold=float(np.quantile(scores, ACCEPTED)),
        quantiles=tuple(np.quantile(scores, np.linspace(0, 1, QUANTILES)).tolist()),
        num_photos=len(scores),
    )
    offset = (np.mean(medians, axis=0) * scale).sum(keepdims=True)
    return NoveltyFit(_tensor(means), _tensor(scale), _tensor(offset), facts)


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


def cosines(vectors: Floats, means: Floats) -> Floats:
    """Return the cosine of each vector, (n,), to the nearest mean."""
    nearest: Floats = (vectors @ means.T).max(axis=1)
    return nearest


def cosines_without_itself(vectors: Floats, labels: Ints, classes: int) -> Floats:
    """Return the same, of the vectors' own means, where a photo does not count in that of its class.

    NaN for a photo that is the only one of its class.
    """
    sums, counts = _sums(vectors, labels, classes)
    alike = _alike(sums, counts)
    found = vectors @ (sums / np.maximum(counts, 1)[:, None] / _lengths(sums, counts, alike)[:, None]).T
    others, left = sums[labels] - vectors, counts[labels] - 1
    own = (vectors * others).sum(axis=1) / np.maximum(left, 1) / _lengths(others, left, alike)
    found[np.arange(len(labels)), labels] = own
    nearest: Floats = np.where(left > 0, found.max(axis=1), np.nan)
    return nearest


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
