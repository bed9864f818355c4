"""Figures with intervals, against formulas and against repeated sampling."""

import numpy as np
import pytest

from training.evaluation.figures import Figure, mean, share, statistic


def test_share_has_wilsons_interval() -> None:
    """The interval is Wilson's formula for 80 of 100 at 1.96 standard deviations."""
    z, p, n = 1.959963984540054, 0.8, 100
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert share([True] * 80 + [False] * 20) == Figure(
        0.8, pytest.approx(centre - half), pytest.approx(centre + half), 100
    )


def test_share_of_all_has_room_below() -> None:
    """Twenty of twenty is no proof of certainty."""
    found = share([True] * 20)
    assert (1.0, 20) == (found.high, found.n)
    assert found.low == pytest.approx(0.8389, abs=1e-4)


def test_means_interval_covers_as_often_as_it_says() -> None:
    """Of 200 samples of a skewed distribution about 95% of the intervals hold its mean."""
    rng = np.random.default_rng(3)
    samples = rng.exponential(size=(200, 80))
    covered = sum(found.low <= 1 <= found.high for found in map(mean, samples))
    assert 176 <= covered <= 199


def test_photos_without_a_value_do_not_count() -> None:
    """NaN is left out of value and n."""
    found = mean([1.0, np.nan, 3.0])
    assert (2.0, 2) == (found.value, found.n)


def test_statistic_is_of_the_photos_as_they_are() -> None:
    """The value is of every photo once, the interval holds it, and both are the same every time."""
    values = np.random.default_rng(0).normal(size=50)
    found, again = (statistic(lambda chosen: float(np.median(values[chosen])), 50, (-9, 9)) for _ in range(2))
    assert found.value == np.median(values)
    assert found.low < found.value < found.high
    assert found == again


def test_interval_stays_within_what_can_be() -> None:
    """The shift that takes the bias out never leads below zero or above one."""
    confidence, right = np.full(40, 0.97), np.arange(40) > 0
    found = statistic(lambda chosen: abs(float((confidence - right)[chosen].mean())), 40)
    assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize("found", [share([]), mean([]), mean([np.nan])])
def test_no_photos_give_no_figure(found: Figure) -> None:
    """Nothing measured is null in JSON, not zero."""
    assert {"value": None, "low": None, "high": None, "n": 0} == found.to_dict()
