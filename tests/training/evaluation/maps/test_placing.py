"""Maps placed where their cells look."""

import numpy as np
import pytest

from training.evaluation.maps.localisation import peak
from training.evaluation.maps.placing import at_centres
from training.evaluation.maps.regions import value_at


def one(row: int, column: int, cells: int = 9) -> np.ndarray:
    """Return a map of one cell."""
    maps = np.zeros((1, cells, cells), dtype=np.float32)
    maps[0, row, column] = 1
    return maps


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 5), (8, 8)])
def test_a_cell_is_highest_where_it_looks(row: int, column: int) -> None:
    """Cell i of stride 32 that begins at pixel 0 peaks at 32 i, give or take a cell; side by side it is 16 further."""
    x, y = peak(at_centres(one(row, column), (0, 0, 32, 32), 288)[0], 288)
    assert (x, y) == pytest.approx((32 * column + 0.5, 32 * row + 0.5), abs=2)
    assert peak(one(row, column)[0], 288) == (32 * column + 16, 32 * row + 16)


def test_cells_side_by_side_are_read_alike() -> None:
    """With the centres of squares the map is what it is when read evenly; the axes are not mixed up."""
    maps = np.random.default_rng(0).random((2, 6, 9)).astype(np.float32)
    placed = at_centres(maps, (15.5, 23.5, 32, 48), 288)
    x, y = np.random.default_rng(1).integers(0, 144, (2, 50)) * 2 + 1.0
    for before, after in zip(maps, placed, strict=True):
        np.testing.assert_allclose(value_at(after, x, y, 288), value_at(before, x, y, 288), atol=1e-6)


def test_beyond_the_outer_centres_nothing_changes() -> None:
    """The last cell of nine looks at pixel 256: what lies behind is read from it alone."""
    placed = at_centres(one(8, 8), (0, 0, 32, 32), 288)[0]
    np.testing.assert_array_equal(placed[129:, 129:], 1)
