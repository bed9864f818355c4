"""Where trained cells look, of networks whose kernels are known."""

import numpy as np
import pytest
import torch

from model.network.network import Network
from tests.model.networks import SIZE, make_network
from training.evaluation.maps.looking import look_figures, look_offsets, moved


def network_that_looks(row: int, column: int) -> Network:
    """Return SqueezeNet whose first kernels use one pixel of nine."""
    network = make_network()
    kernels = network.backbone.get_submodule("features.0").weight
    with torch.no_grad():
        kept = kernels[:, :, 1, 1].clone()
        kernels.zero_()
        kernels[:, :, row, column] = kept
    return network


@pytest.mark.parametrize(("row", "column"), [(1, 1), (0, 2), (2, 0)])
def test_cells_look_where_their_kernels_do(row: int, column: int) -> None:
    """A kernel that uses a corner of its window looks a pixel beside the middle, each axis by itself."""
    photos = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    windows = {"features.1": (1.0, 1.0, 2.0, 2.0)}
    offsets = look_offsets(network_that_looks(row, column), photos, windows)
    assert list(offsets) == ["features.1"]
    np.testing.assert_allclose(offsets["features.1"], [[column - 1, row - 1]] * 2, atol=1e-5)


def test_centres_move_to_where_cells_look() -> None:
    """By the mean over the photos whose cell answers; a layer that never answers keeps no place."""
    offsets = {"a": np.array([[1.0, -2], [np.nan, np.nan], [3, -4]]), "b": np.full((2, 2), np.nan)}
    figures = look_figures(offsets)
    assert (figures["a"]["x"].value, figures["a"]["y"].value, figures["a"]["x"].n) == (2, -3, 2)
    assert moved({"a": (10, 20, 4, 4), "b": (0, 0, 8, 8)}, figures) == {"a": (12, 17, 4, 4)}
