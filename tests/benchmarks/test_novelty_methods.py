"""The scores that are compared equal pytorch-ood's on the same features."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from pytorch_ood.detector import KNN, RMD, SCALE, EnergyBased, Mahalanobis, MaxLogit, MaxSoftmax, ReAct, ViM

from benchmarks.novelty_methods import NEIGHBOUR, PRINCIPAL, Bank, react, scale, scores_of, vim

logging.getLogger("pytorch_ood").setLevel(logging.ERROR)
CLASSES, CHANNELS, PHOTOS = 4, 300, 900


@pytest.fixture(scope="module")
def bank() -> Bank:
    """Return vectors of four classes, not negative as those of a network that ends in a ReLU, and a head."""
    rng = np.random.default_rng(0)
    labels = np.arange(PHOTOS) % CLASSES
    vectors = np.abs(rng.normal(size=(PHOTOS, CHANNELS)) + 2 * rng.random((CLASSES, CHANNELS))[labels])
    return Bank(vectors, labels, rng.normal(size=(CLASSES, CHANNELS)) / 10, rng.normal(size=CLASSES))


@pytest.fixture(scope="module")
def asked() -> torch.Tensor:
    """Return other vectors."""
    return torch.from_numpy(np.abs(np.random.default_rng(1).normal(size=(20, CHANNELS)) + 1))


def test_scores_of_logits(bank: Bank, asked: torch.Tensor) -> None:
    """Largest probability, largest logit, energy."""
    scores, logits = scores_of(bank), torch.from_numpy(bank.logits(asked.numpy()))
    for name, peer in (("max_probability", MaxSoftmax), ("max_logit", MaxLogit), ("energy", EnergyBased)):
        np.testing.assert_allclose(scores[name](asked.numpy()), peer.score(logits), rtol=1e-4)


def test_scores_of_changed_vectors(bank: Bank, asked: torch.Tensor) -> None:
    """ReAct and SCALE, on vectors as maps of one cell."""

    def head(maps: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(bank.logits(maps.flatten(1).numpy()))

    cells = asked[:, :, None, None]
    clipped = ReAct(lambda x: x, head, threshold=float(np.percentile(bank.vectors, 90)))
    np.testing.assert_allclose(react(bank)(asked.numpy()), clipped.predict(cells), rtol=1e-4)
    scaled = SCALE(lambda x: x, head, percentile=0.85)
    np.testing.assert_allclose(scale(bank)(asked.numpy()), scaled.predict(cells), rtol=1e-4)


def test_scores_of_a_residual(bank: Bank, asked: torch.Tensor) -> None:
    """ViM, on vectors whose principal space ends clearly, for its peer computes in single floats."""
    rng = np.random.default_rng(2)
    axes = np.linalg.qr(rng.normal(size=(CHANNELS, PRINCIPAL)))[0].T
    vectors = rng.normal(size=(PHOTOS, PRINCIPAL)) @ axes + rng.normal(size=(PHOTOS, CHANNELS)) / 30
    peer = ViM(None, PRINCIPAL, torch.from_numpy(bank.weight), torch.from_numpy(bank.bias))
    peer.fit_features(torch.from_numpy(vectors), torch.from_numpy(bank.labels))
    found = vim(replace(bank, vectors=vectors))(asked.numpy())
    np.testing.assert_allclose(found, peer.predict_features(asked), rtol=1e-4)


def test_scores_of_distances(bank: Bank, asked: torch.Tensor) -> None:
    """Both Mahalanobis distances (theirs of sums, ours of means over photos), and nearest neighbours."""
    scores, vectors, labels = scores_of(bank), torch.from_numpy(bank.vectors), torch.from_numpy(bank.labels)
    floats, few = vectors.float(), asked.float()
    near = Mahalanobis(None).fit_features(floats, labels).predict_features(few)
    np.testing.assert_allclose(scores["mahalanobis"](asked.numpy()), 2 * PHOTOS * near.numpy(), rtol=1e-4)
    relative = RMD(None).fit_features(floats, labels).predict_features(few)
    np.testing.assert_allclose(
        scores["relative_mahalanobis"](asked.numpy()), PHOTOS * relative.numpy(), rtol=1e-4, atol=1e-2
    )
    distance = KNN(None, k=NEIGHBOUR).fit_features(vectors, labels).predict_features(asked).numpy()
    np.testing.assert_allclose(scores["neighbour_pooled"](asked.numpy()), distance**2 / 2 - 1, rtol=1e-4)
