"""The score of novelty, computed again step by step, and beside pytorch-ood's largest logit."""

import numpy as np
import pytest
import torch
from pytorch_ood.detector import MaxLogit

from model.contract.manifest import Novelty
from model.explain.novelty import METHOD, NoveltyFit, NoveltyScore, root

FACTS = Novelty(method=METHOD, threshold=1.0, quantiles=(0.0, 2.0), num_photos=9)


def _fit(means: torch.Tensor) -> NoveltyFit:
    return NoveltyFit(means, torch.tensor([0.5, 3.0, 2.0]), torch.tensor([4.0]), FACTS)


def test_the_score_is_a_sum_on_one_scale() -> None:
    """A high logit, a vector like a class's mean and little outside are familiar; zero vectors have a score, too."""
    generator = torch.Generator().manual_seed(0)
    logits, pooled = (torch.randn(6, size, generator=generator, dtype=torch.float64) for size in (3, 8))
    pooled[5] = 0
    means = root(torch.randn(3, 8, generator=generator, dtype=torch.float64))
    roots = np.sign(pooled.numpy()) * np.sqrt(np.abs(pooled.numpy()))
    lengths = np.linalg.norm(roots, axis=1)
    near = (roots @ means.numpy().T).max(axis=1) / np.where(lengths > 0, lengths, 1)
    outside = torch.rand(6, generator=generator, dtype=torch.float64)
    expected = 4 - 0.5 * logits.numpy().max(axis=1) - 3 * near + 2 * outside.numpy()
    np.testing.assert_allclose(NoveltyScore(_fit(means)).double()(logits, pooled, outside), expected, atol=1e-12)


def test_without_means_it_is_the_largest_logit() -> None:
    """As pytorch-ood has it, times the scale."""
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    score = NoveltyScore(_fit(torch.zeros(7, 8)))(logits, torch.rand(50, 8), torch.zeros(50))
    torch.testing.assert_close(4 + 0.5 * MaxLogit.score(logits), score, rtol=1e-4, atol=0)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_photo_does_not_depend_on_its_neighbours(count: int) -> None:
    """One score for each, (N,)."""
    generator = torch.Generator().manual_seed(0)
    logits, pooled = torch.randn(7, 3, generator=generator), torch.rand(7, 8, generator=generator)
    score = NoveltyScore(_fit(root(torch.rand(3, 8, generator=generator))))
    outside = torch.rand(7, generator=generator)
    few = score(logits[:count], pooled[:count], outside[:count])
    torch.testing.assert_close(score(logits, pooled, outside)[:count], few)
