"""The colour tables are the usual ones."""

import numpy as np
import pytest

from service.drawing.colormaps import COLORMAPS


@pytest.mark.parametrize("name", ["turbo", "viridis", "inferno", "jet"])
def test_colour_tables_are_matplotlibs(name: str) -> None:
    """The tables equal matplotlib's."""
    matplotlib = pytest.importorskip("matplotlib")
    assert np.array_equal(matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3], COLORMAPS[name])
