"""Maps on a regular grid: read between the centres of their cells."""

import numpy as np
import pytest

from model.contract.placing import PIXELS, at_centres
from training.evaluation.maps.regions import value_at

SIZE = 64


def test_a_ramp_stays_a_ramp() -> None:
    """Between the outer centres a linear map is read exactly, beyond them it is constant."""
    ramp = np.tile(np.arange(4, dtype=np.float32), (1, 4, 1))
    placed = at_centres(ramp, (8.0, 8.0, 16.0, 16.0), SIZE)[0]
    pixels = (np.arange(SIZE // PIXELS) + 0.5) * PIXELS - 0.5
    np.testing.assert_allclose(placed, np.tile(np.clip((pixels - 8) / 16, 0, 3), (SIZE // PIXELS, 1)), atol=1e-6)


@pytest.mark.parametrize(("start", "step"), [(0.0, 16.0), (7.5, 16.0), (-1.0, 32.0)])
def test_a_peak_lies_at_its_cells_centre(start: float, step: float) -> None:
    """Rows and columns each by their own centres."""
    values = np.zeros((2, 3, 4), np.float32)
    values[1, 1, 2] = 1
    placed = at_centres(values, (start, 2.0, step, 20.0), SIZE)
    assert 0 == placed[0].max()
    row, column = np.unravel_index(placed[1].argmax(), placed[1].shape)
    assert pytest.approx(2 + 20, abs=1) == (row + 0.5) * PIXELS - 0.5
    assert pytest.approx(min(start + 2 * step, SIZE), abs=1) == (column + 0.5) * PIXELS - 0.5


def test_cells_side_by_side_are_read_alike() -> None:
    """With the centres of squares the map is what it is when read evenly; the axes are not mixed up."""
    maps = np.random.default_rng(0).random((2, 6, 9)).astype(np.float32)
    placed = at_centres(maps, (15.5, 23.5, 32, 48), 288)
    x, y = np.random.default_rng(1).integers(0, 144, (2, 50)) * 2 + 1.0
    for before, after in zip(maps, placed, strict=True):
        np.testing.assert_allclose(value_at(after, x, y, 288), value_at(before, x, y, 288), atol=1e-6)
