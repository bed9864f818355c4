"""The tables of marks: which lines and columns there are, and in which order."""

from dataclasses import replace

import numpy as np

from tests.training.evaluation.report.conftest import Contents
from training.evaluation.figures import mean
from training.evaluation.mark_tables import MarkResult
from training.evaluation.marks.places import PlaceRow
from training.evaluation.report.mark_grids import mark_grids

SURE = {part: mean(np.full(50, value)) for part, value in (("crown", 0.9), ("tail", 0.1), ("bill", 0.5))}


def test_chance_stands_behind(marked: Contents) -> None:
    """The marks' own maps come first, those of them that are located next; then the class's; chance last."""
    whole = mark_grids(marked.marks, marked.figures)[0]
    assert [line.name for line in whole.lines[:4]] == ["the marks' maps", "the marks' maps", "Grad-CAM", "“A, not B”"]
    assert [line.detail.startswith("located ones, ") for line in whole.lines[:2]] == [False, True]
    assert [line.chance for line in whole.lines] == [False] * 4 + [True] * 3


def test_parts_stand_from_best_to_worst() -> None:
    """Beside the centred Gaussian of the same part: above it, below, or not clearly different."""
    gaussian = {"hits": mean(np.full(50, 0.5))}
    rows = [PlaceRow("marks", part, 50, {"hits": figure}) for part, figure in SURE.items()]
    rows += [PlaceRow("centred_gaussian", part, 50, gaussian) for part in SURE]
    (grid,) = mark_grids(MarkResult({}, rows), {})
    assert [(line.name, line.marks["hits"]) for line in grid.lines] == [("crown", "↑"), ("bill", ""), ("tail", "↓")]
    assert list(grid.columns) == ["hits"]


def test_what_was_not_blurred_has_no_table(marked: Contents) -> None:
    """Nor has a network without marks any."""
    assert marked.marks is not None
    unblurred = replace(marked.marks, sight=())
    plain = {name: figure for name, figure in marked.figures.items() if not name.startswith("evidence_")}
    assert len(mark_grids(unblurred, plain)) == 2
    assert mark_grids(None, marked.figures) == []


def test_blurred_places_are_rows(marked: Contents) -> None:
    """Of figures whose names end with the row: the named place first, the middle of the true box is chance."""
    grids = {grid.title: grid for grid in mark_grids(marked.marks, marked.figures)}
    lines = grids["Evidence in place"].lines
    assert [(line.name, line.chance) for line in lines] == [
        ("the marks' maps", False),
        ("Grad-CAM", False),
        ("middle of the true box", True),
    ]
    assert all({"evidence_in_place", "evidence_margin"} == set(line.figures) for line in lines)
    assert [line.name for line in grids["Is seen what is there?"].lines] == ["all parts", "crown"]
