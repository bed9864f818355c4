"""The tables of the report: which figures stand in which, and what stands beside chance."""

from training.evaluation.figures import Figure
from training.evaluation.report.grids import (
    faithfulness_grid,
    further_grid,
    map_grids,
    sanity_grid,
    verdict,
)
from training.evaluation.tables import MapRow


def figure(low: float, high: float) -> Figure:
    """Return a figure in the middle of its interval."""
    return Figure((low + high) / 2, low, high, 10)


def test_maps_stand_before_chance_and_are_compared_with_it() -> None:
    """An arrow only where the interval lies apart from the centred Gaussian's; layers of one kind stand together."""
    rows = [
        MapRow("centred_gaussian", "", "all", {"pointing": figure(0.4, 0.5), "energy": figure(0.4, 0.5)}),
        MapRow("random", "", "all", {"pointing": figure(0.1, 0.2), "energy": figure(0.1, 0.2)}),
        MapRow("gradcam", "last", "all", {"pointing": figure(0.6, 0.7), "energy": figure(0.25, 0.3)}),
        MapRow("attention", "", "all", {"pointing": figure(0.45, 0.7)}),
        MapRow("gradcam", "first", "all", {"rank": figure(0, 1)}),
        MapRow("gradcam", "last", "wrong", {"pointing": figure(0.6, 0.7)}),
    ]
    everything, wrong = map_grids(rows)
    assert [line.name for line in everything.lines] == [
        "Grad-CAM",
        "Grad-CAM",
        "attention",
        "centred Gaussian",
        "random",
    ]
    assert [line.chance for line in everything.lines] == [False, False, False, True, True]
    assert [dict(line.marks) for line in everything.lines] == [
        {"pointing": "↑", "energy": "↓"},
        {},
        {"pointing": ""},
        {},
        {},
    ]
    assert list(everything.columns) == ["pointing", "energy", "rank"]
    assert [dict(line.marks) for line in wrong.lines] == [{}]
    assert map_grids([]) == []


def test_every_figure_has_its_table(further: dict[str, Figure]) -> None:
    """Faithfulness by measure and map, sanity by layer, and the rest by name; headlines stand elsewhere."""
    figures = further | {"top1": figure(0, 1), "centred_gaussian": figure(0, 1), "images": 6.0}
    faithfulness, sanity, rest = faithfulness_grid(figures), sanity_grid(figures), further_grid(figures)
    assert faithfulness is not None
    assert sanity is not None
    assert rest is not None
    assert {line.name: set(line.figures) for line in faithfulness.lines} == {
        "Grad-CAM": {"deletion", "road_morf", "road"},
        "Grad-CAM minus random": {"deletion"},
        "random": {"deletion"},
    }
    assert [line.name for line in sanity.lines] == ["head"]
    assert [line.name for line in rest.lines] == ["something new"]
    assert (faithfulness_grid({}), sanity_grid({}), further_grid({})) == (None, None, None)


def test_a_verdict_needs_intervals_apart() -> None:
    """Overlapping ones say nothing."""
    assert verdict(figure(0.6, 0.7), figure(0.4, 0.5)) == "above chance"
    assert verdict(figure(0.1, 0.2), figure(0.4, 0.5)) == "below chance"
    assert verdict(figure(0.1, 0.45), figure(0.4, 0.5)) == "not clearly different from chance"
