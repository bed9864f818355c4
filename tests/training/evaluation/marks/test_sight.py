"""Whether seen sees, of a made network that looks and of one that only knows the class."""

from dataclasses import replace

import numpy as np
import pytest

from tests.training.evaluation.marks.made import Made
from training.evaluation.marks.readings import MarkList
from training.evaluation.marks.sight import SightRow, sight_rows


def rows(made: Made, *, sees: bool, points: np.ndarray | None = None) -> dict[str, SightRow]:
    """Return the table by part."""
    ask = made.network((4, 4, 4), sees=sees)
    logits, seen = ask(made.image(0)[None])
    before = np.tile(logits, (made.count, 1)), np.tile(seen, (made.count, 1))
    scenes = made.scenes if points is None else [replace(scene, points=points) for scene in made.scenes]
    found = sight_rows(ask, made.image, scenes, made.marks, made.parts, made.labels, before, 1.0)
    return {row.part: row for row in found}


def test_a_network_that_looks_loses_the_blurred_part(made: Made) -> None:
    """Every part's own marks fall most; the table tells no part from another, so its product does not see."""
    found = rows(made, sees=True)
    assert list(found) == ["", "crown", "tail", "breast"]
    for part in ("crown", "tail", "breast"):
        assert (found[part].figures["seen"].value, found[part].figures["seen"].n) == (1, made.count)
        assert found[part].figures["fall"].value > 0.5
    assert found[""].figures["seen"].value == 1
    assert found[""].figures["product"].value < 0.7


def test_a_network_that_knows_only_the_class_does_not_see(made: Made) -> None:
    """All its marks fall alike, whatever is blurred."""
    found = rows(made, sees=False)
    assert found[""].figures["seen"].value == 0
    assert found["tail"].figures["fall"].value == pytest.approx(0)


def test_parts_that_overlap_are_not_compared(made: Made) -> None:
    """With the tail at the crown each has only the breast left to be compared with; alone there is nothing."""
    points = made.places.copy()
    points[1] = points[0] + 1
    assert rows(made, sees=True, points=points)["crown"].figures["seen"].n == made.count
    points[2] = np.nan
    assert rows(made, sees=True, points=points) == {}


def test_marks_that_are_not_typical_do_not_count(made: Made) -> None:
    """The second class's marks are asked for on its photos: of the crown the blue one, which red does not change."""
    table = np.array([[0.9, 0.1, 0.2, 0.8], [0.1, 0.9, 0.8, 0.9]])
    marks = MarkList(made.names, made.marks.parts, made.marks.located, table)
    ask = made.network((4, 4, 4))
    before = tuple(np.tile(answer, (made.count, 1)) for answer in ask(made.image(0)[None]))
    found = sight_rows(ask, made.image, made.scenes, marks, made.parts, made.labels, before, 1.0)  # type: ignore[arg-type]
    assert {"", "crown", "breast"} == {row.part for row in found}, "no tail is typical of the first class"
