"""The vector of a photo: principal axes of what the network pools, of length 1."""

import torch

from model.explain.embedding import Embedding, PrincipalAxes


def test_vectors_have_length_one_and_keep_their_angles() -> None:
    """On as many axes as there are numbers, their inner product is the cosine of the pooled vectors about the mean."""
    torch.manual_seed(0)
    pooled, mean = torch.randn(9, 6) + 2, torch.rand(6)
    vectors = Embedding(PrincipalAxes(mean, torch.linalg.qr(torch.randn(6, 6)).Q, 9))(pooled)
    centred = torch.nn.functional.normalize(pooled - mean, dim=1)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(9))
    torch.testing.assert_close(vectors @ vectors.T, centred @ centred.T)


def test_each_number_is_along_an_axis() -> None:
    """In the order of the axes, from the mean on."""
    embedding = Embedding(PrincipalAxes(torch.tensor([1.0, 0, 0]), torch.eye(3)[[2, 0]], 3))
    torch.testing.assert_close(embedding(torch.tensor([[4.0, 9, 4]])), torch.tensor([[0.8, 0.6]]))


def test_the_mean_photo_has_a_vector_of_zeros() -> None:
    """It is like none more than another: no division by its length makes NaN of it."""
    embedding = Embedding(PrincipalAxes(torch.ones(3), torch.eye(3)[:2], 3))
    assert [[0.0, 0.0]] == embedding(torch.ones(1, 3)).tolist()
