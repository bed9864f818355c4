"""A head that starts as the linear discriminant of the features."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from training.fit.head_start import discriminant
from training.fit.job import Job
from training.fit.loop import fit

MakeJob = Callable[..., Job]


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_the_discriminant_names_the_nearest_class_by_mahalanobis_distance(shrinkage: float) -> None:
    """Computed the long way: distances to the means under the shrunken covariance of standardised features."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 40)
    vectors = generator.normal(size=(120, 5)) @ generator.normal(size=(5, 5)) + labels[:, None] * generator.normal(
        size=5
    )
    weight, bias = discriminant(torch.from_numpy(vectors), torch.from_numpy(labels), 3, shrinkage)
    scaled = (vectors - vectors.mean(0)) / vectors.std(0, ddof=1)
    means = np.stack([scaled[labels == index].mean(0) for index in range(3)])
    within = scaled - means[labels]
    covariance = within.T @ within / len(within)
    covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / 5 * np.eye(5)
    offsets = scaled[:, None] - means
    distances = np.einsum("nkc,cd,nkd->nk", offsets, np.linalg.inv(covariance), offsets)
    logits = vectors @ weight.numpy().T + bias.numpy()
    differences = logits[:, :1] - logits
    np.testing.assert_allclose(differences, (distances - distances[:, :1]) / 2, atol=1e-8)


def test_a_head_that_starts_as_the_discriminant_knows_the_classes_at_once(make_job: MakeJob) -> None:
    """Hardly learning at all, it names more of the training photos than chance would."""
    changes = {"network.head": "linear", "optim.lr_backbone": 0.0, "optim.lr_new": 1e-9, "optim.epochs": 2}
    start = fit(make_job(**changes, **{"optim.head_start": "discriminant"}))
    random = fit(make_job("random", **changes))
    assert start.metrics["top1"] > random.metrics["top1"]
