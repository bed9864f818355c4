"""The vector of a photo: principal axes of what the network pools, of length 1."""

import pytest
import torch

from model.explain.embedding import MAX_SIZE, Embedding, PrincipalAxes, principal_axes


def _clouds() -> torch.Tensor:
    """Return 300 vectors of 400 numbers that vary along few directions."""
    torch.manual_seed(0)
    return torch.randn(300, 12) @ torch.randn(12, 400) + 0.01 * torch.randn(300, 400) + 3


def test_axes_are_orthonormal_and_sorted_by_variance() -> None:
    """They are those of numpy's covariance, and no more than an embedding may have."""
    pooled = _clouds()
    found = principal_axes(pooled)
    assert (MAX_SIZE, 400) == found.axes.shape
    torch.testing.assert_close(found.axes @ found.axes.T, torch.eye(MAX_SIZE), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.mean, pooled.mean(0))
    variances = ((pooled - found.mean) @ found.axes.T).var(0)
    assert bool((variances[:12].diff() < 0).all())
    largest = torch.linalg.eigvalsh(pooled.double().T.cov()).flip(0)[:12].float()
    torch.testing.assert_close(variances[:12], largest, rtol=1e-3, atol=0)


def test_the_direction_of_an_axis_does_not_depend_on_the_machine() -> None:
    """Mirrored photos have the axes of the photos, with the same signs."""
    pooled = _clouds()[:20]
    first, second = principal_axes(pooled), principal_axes(2 * pooled.mean(0) - pooled)
    torch.testing.assert_close(first.axes[:10], second.axes[:10], atol=1e-4, rtol=0)
    assert (19, 20) == (len(first.axes), first.num_photos)


@pytest.mark.parametrize("pooled", [torch.ones(1, 8), torch.ones(5, 8)])
def test_photos_that_do_not_differ_are_refused(pooled: torch.Tensor) -> None:
    """One photo, or copies of it, have no direction in which they vary."""
    with pytest.raises(ValueError, match="photos that differ"):
        principal_axes(pooled)


def test_vectors_have_length_one_and_keep_their_angles() -> None:
    """Where all the variance is on the axes, their inner product is the cosine of the pooled vectors about the mean."""
    pooled = _clouds()
    embedding = Embedding(principal_axes(pooled))
    vectors = embedding(pooled[:9])
    centred = torch.nn.functional.normalize(pooled[:9] - pooled.mean(0), dim=1)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(9))
    torch.testing.assert_close(vectors @ vectors.T, centred @ centred.T, atol=1e-3, rtol=0)


def test_the_mean_photo_has_a_vector_of_zeros() -> None:
    """It is like none more than another: no division by its length makes NaN of it."""
    embedding = Embedding(PrincipalAxes(torch.ones(3), torch.eye(3)[:2], 3))
    assert [[0.0, 0.0]] == embedding(torch.ones(1, 3)).tolist()
