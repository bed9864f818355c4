"""The plots: every bin, tick and interval is drawn, and stays inside."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from training.evaluation.classification import Bin
from training.evaluation.figures import Figure, share
from training.evaluation.report.plots import reliability_plot, risk_plot, whisker


def parsed(plot: str) -> ElementTree.Element:
    """Return a plot's elements."""
    return ElementTree.fromstring(plot)  # noqa: S314 - of our own making


def test_every_bin_has_a_point_an_interval_and_a_count() -> None:
    """With ticks in percent on both axes."""
    bins = [Bin(0.55, share([True, False])), Bin(0.985, share([True] * 1234))]
    plot = parsed(reliability_plot(bins))
    kinds = [element.get("class") for element in plot.iter()]
    assert [kinds.count(kind) for kind in ("point", "whisker", "count")] == [2, 2, 2]
    texts = [element.text for element in plot.iter("text")]
    assert ["2", "1.23k"] == [text for text in texts if text in ("2", "1.23k")]
    assert [texts.count(tick) for tick in ("0%", "25%", "50%", "75%", "100%")] == [2] * 5
    assert "2 photos, stated 55%, right 50% (9%–91%)" in [element.text for element in plot.iter("title")]


@pytest.mark.parametrize("photos", [1, 7, 5000])
def test_risk_stays_in_its_plot(photos: int) -> None:
    """For one photo or thousands; errors of all photos included."""
    risk = np.linspace(0, 1, photos)
    plot = risk_plot(risk, [(0.5, Figure(0.8, 0.6, 0.9, 5))])
    parsed(plot)
    (curve,) = re.findall(r'class="curve" d="M([^"]+)"', plot)
    points = np.array([[float(number) for number in point.split()] for point in curve.split("L")])
    assert len(points) <= 300
    assert (points >= 10).all()
    assert (points[:, 0] <= 354).all()
    assert (points[:, 1] <= 310).all()


def test_a_whisker_shows_chance_and_nothing_without_a_value() -> None:
    """The tick of chance only where it has a figure."""
    figure = Figure(0.5, 0.4, 0.6, 9)
    assert "chance" in whisker(figure, Figure(0.3, 0.2, 0.4, 9))
    assert "chance" not in whisker(figure)
    assert whisker(Figure(float("nan"), float("nan"), float("nan"), 0)) == ""
