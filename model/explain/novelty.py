"""How unlike the training photos a photo is: a low largest logit, and a vector far from the mean of every class.

The logit distinguishes what the head was trained to distinguish, the means what it never saw. Both are added on one
scale, that of photos that were not trained on. Vectors are compared by their square roots, so that a few strong
channels do not decide.

Source: Hendrycks et al. 2022, arXiv:1911.11132 (largest logit); Perronnin et al. 2010, doi:10.1007/978-3-642-15561-1_11
(square roots of pooled features); the choice is measured by `benchmarks/novelty_methods.py`.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.contract.manifest import Novelty

SMALLEST = 1e-12
"""Least length that a vector is divided by."""
METHOD = "max_logit+class_means"
"""Name in the manifest."""


class NoveltyFit(NamedTuple):
    """What a score of novelty is made of.

    Attributes:
        means: of the classes' square roots of length 1, over the length that their mean would have of endless photos,
            (K, C); zeros for a class without photos.
        scale: of the largest logit and of the nearest mean's cosine, (2,), positive.
        offset: (1,).
        facts: threshold and quantiles, for the manifest.
    """

    means: Tensor
    scale: Tensor
    offset: Tensor
    facts: Novelty


class NoveltyScore(nn.Module):
    """Scores photos: offset - scale · (largest logit, cosine to the nearest mean of a class).

    Attributes:
        facts: as in `NoveltyFit`.
    """

    means: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, given: NoveltyFit) -> None:
        super().__init__()
        for name in ("means", "scale", "offset"):
            self.register_buffer(name, getattr(given, name).clone(), persistent=False)
        self.facts = given.facts

    def forward(self, logits: Tensor, pooled: Tensor) -> Tensor:
        """Return the scores, (N,), of logits, (N, K), and of the vectors that the head reads, (N, C)."""
        near = (root(pooled) @ self.means.T).amax(1, keepdim=True)
        return self.offset - (torch.cat([logits.amax(1, keepdim=True), near], 1) * self.scale).sum(1)


def root(vectors: Tensor) -> Tensor:
    """Return the square roots of vectors, (n, C), each with its sign, of length 1."""
    sizes = vectors.abs()
    return vectors.sign() * sizes.sqrt() / sizes.sum(1, keepdim=True).sqrt().clamp_min(SMALLEST)
