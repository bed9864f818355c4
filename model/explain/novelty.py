"""How unlike the training photos a photo is: by its largest logit, its nearest class mean, and what no axis explains.

The logit distinguishes what the head was trained to distinguish, the means other kinds of the same, the rest what is
altogether different. They are added on one scale, that of photos that were not trained on. Vectors are compared with
the means by their square roots, so that a few strong channels do not decide.

Source: Hendrycks et al. 2022, arXiv:1911.11132 (largest logit); Perronnin et al. 2010, doi:10.1007/978-3-642-15561-1_11
(square roots of pooled features); Wang et al. 2022, arXiv:2203.10807 (what lies outside); the choice is measured by
`benchmarks/novelty_methods.py`.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.contract.manifest import Novelty

SMALLEST = 1e-12
"""Least length that a vector is divided by."""
METHOD = "max_logit+class_means+residual"
"""Name in the manifest."""


class NoveltyFit(NamedTuple):
    """What a score of novelty is made of.

    Attributes:
        means: of the classes' square roots of length 1, over the length that their mean would have of endless photos,
            (K, C); zeros for a class without photos.
        scale: of the largest logit, of the nearest mean's cosine, and of the length outside, (3,), not negative.
        offset: (1,).
        facts: threshold and quantiles, for the manifest.
    """

    means: Tensor
    scale: Tensor
    offset: Tensor
    facts: Novelty


class NoveltyScore(nn.Module):
    """Scores photos: offset - scale · (largest logit, cosine to the nearest mean of a class, - length outside).

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

    def forward(self, logits: Tensor, pooled: Tensor, outside: Tensor) -> Tensor:
        """Return the scores, (N,).

        Args:
            logits: (N, K).
            pooled: the vectors that the head reads, (N, C).
            outside: length of what the axes of the embedding leave out of them, (N,).
        """
        near = (root(pooled) @ self.means.T).amax(1)
        return self.offset - (torch.stack([logits.amax(1), near, -outside], 1) * self.scale).sum(1)


def root(vectors: Tensor) -> Tensor:
    """Return the square roots of vectors, (n, C), each with its sign, of length 1."""
    sizes = vectors.abs()
    return vectors.sign() * sizes.sqrt() / sizes.sum(1, keepdim=True).sqrt().clamp_min(SMALLEST)
