"""A load follows its plan."""

import pytest

from service.commands.bench.loadgen import Plan, _arrivals


def test_arrivals() -> None:
    """Even arrivals are evenly spaced; random ones are as many on average, and the same for the same seed."""
    even = _arrivals(Plan("", 0, "", [], 2.0, rate=4.0))
    assert [0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75] == even
    plan = Plan("", 0, "", [], 100.0, rate=50.0, poisson=True, seed=7)
    assert _arrivals(plan) == _arrivals(plan)
    assert 5000 == pytest.approx(len(_arrivals(plan)), rel=0.05)
