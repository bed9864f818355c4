"""Maps that know nothing of the photo."""

import numpy as np

from training.evaluation.maps.chance import SIGMA, chance_maps
from training.evaluation.maps.localisation import peak


def test_rows_and_their_grids() -> None:
    """Random maps share the network's grid; the others sit exactly in the middle of the input."""
    found = chance_maps(3, (7, 9), 32)
    assert {"centred_gaussian": (3, 32, 32), "centre": (3, 32, 32), "random": (3, 7, 9)} == {
        name: maps.shape for name, maps in found.items()
    }
    assert (16.5, 16.5) == peak(found["centre"][0], 32)
    assert found["centre"].sum() == 3


def test_gaussian_has_its_width() -> None:
    """One deviation from the middle the Gaussian has fallen to exp(-1/2), and it is the same on all sides."""
    values = chance_maps(1, (7, 7), 400)["centred_gaussian"][0]
    np.testing.assert_allclose(values[200, 200 + round(SIGMA * 400)], np.exp(-0.5), atol=0.01)
    np.testing.assert_allclose(values, values.T)
    np.testing.assert_allclose(values, values[::-1], atol=1e-6)


def test_random_maps_differ_and_repeat() -> None:
    """Every photo has its own random map, the same every time."""
    one, other = chance_maps(2, (7, 7), 32)["random"]
    assert (one != other).any()
    np.testing.assert_array_equal(one, chance_maps(2, (7, 7), 32)["random"][0])
