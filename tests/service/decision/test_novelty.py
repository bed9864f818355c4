"""Known or not, and where a novelty lies among those of held-out photos."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.contract.manifest import Novelty
from service.decision.novelty import judge, quantile_of

NOVELTY = Novelty(method="any", threshold=3.0, quantiles=(-1.0, 0.0, 0.0, 4.0, 8.0), num_photos=9)
NUMBERS = st.floats(-(2.0**100), 2.0**100, width=32)


@pytest.mark.parametrize(
    ("value", "known", "quantile"),
    [
        (-7.0, True, 0.0),
        (-1.0, True, 0.0),
        (-0.5, True, 0.125),
        (0.0, True, 0.5),
        (3.0, True, 0.6875),
        (3.1, False, 0.69375),
        (8.0, False, 1.0),
        (9.0, False, 1.0),
        (math.inf, False, 1.0),
        (-math.inf, True, 0.0),
        (math.nan, False, 1.0),
    ],
)
def test_a_photo_is_judged(value: float, known: bool, quantile: float) -> None:
    """The threshold itself is known; quantiles are interpolated, and NaN is the most novel of all."""
    assert (known, pytest.approx(quantile)) == judge(value, NOVELTY)


def test_a_model_without_novelty_judges_nothing() -> None:
    """Nothing is said of its photos."""
    assert (None, None) == (judge(None, None), judge(None, NOVELTY))


@given(st.lists(NUMBERS, min_size=2, max_size=20).map(sorted), st.lists(NUMBERS, min_size=2, max_size=9).map(sorted))
def test_the_more_novel_the_higher(quantiles: list[float], values: list[float]) -> None:
    """The quantile rises with the novelty and stays within 0 and 1, whatever the quantiles."""
    found = [quantile_of(value, quantiles) for value in values]
    assert sorted(found) == found
    assert all(0 <= one <= 1 for one in found)
