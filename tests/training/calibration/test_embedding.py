"""The axes of an embedding: principal, orthonormal, the same for the same photos."""

import numpy as np
import pytest

from training.calibration.embedding import embedding_axes
from training.errors import TrainingError


def test_a_short_vector_is_left_as_it_is() -> None:
    """Up to the limit nothing is lost, and nothing fitted."""
    axes = embedding_axes(np.random.default_rng(0).normal(size=(5, 8)), most=8)
    assert 0 == axes.num_photos
    np.testing.assert_array_equal(np.eye(8), axes.axes)
    np.testing.assert_array_equal(np.zeros(8), axes.mean)


def test_axes_keep_the_directions_in_which_photos_differ() -> None:
    """Photos that differ in three directions of forty are distinguished as well by three numbers."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(40, 3)))[0]
    vectors = 5 + rng.normal(size=(200, 3)) * [3, 2, 1] @ directions.T
    axes = embedding_axes(vectors.astype(np.float32), most=3)
    assert 200 == axes.num_photos
    np.testing.assert_allclose(np.eye(3), axes.axes @ axes.axes.T, atol=1e-6)
    reduced = (vectors - axes.mean.numpy()) @ axes.axes.numpy().T
    apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    np.testing.assert_allclose(apart, np.linalg.norm(reduced[:, None] - reduced[None], axis=2), atol=1e-4)
    assert (np.diff(reduced.var(axis=0)) < 0).all()


def test_few_photos_have_few_axes() -> None:
    """Of n photos n - 1 axes are known; their order changes nothing, not even a sign."""
    vectors = np.random.default_rng(0).normal(size=(6, 40))
    axes = embedding_axes(vectors, most=16)
    assert (5, 40) == axes.axes.shape
    np.testing.assert_allclose(axes.axes, embedding_axes(vectors[::-1], most=16).axes, atol=1e-6)
    with pytest.raises(TrainingError, match="at least three photos that differ; there are 2"):
        embedding_axes(vectors[:2], most=16)
