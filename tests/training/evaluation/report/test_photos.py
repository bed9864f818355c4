"""Which photos the report shows, and their maps."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.training.evaluation.report.conftest import NAMES, Contents, Make, reverse_maps
from training.evaluation.report.photos import Album, best, overlay, undecided, worst

PROBABILITIES = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])


def test_galleries_take_the_extremes() -> None:
    """The most confident errors, the nearest calls, and the best of each class."""
    assert worst(PROBABILITIES, np.array([1, 1, 1, 1])) == [1, 0]
    assert best(PROBABILITIES, np.array([0, 0, 1, 1])) == [1, 2]
    assert undecided(PROBABILITIES) == [0, 3, 2, 1]
    assert undecided(np.ones((3, 1))) == []


def test_a_photo_has_its_maps_and_its_certainty(make: Make) -> None:
    """Photo, Grad-CAM, contrast with the next class, attention; a map of zeros says that nothing speaks for it."""
    album = Album(make().evaluation)
    photo = album.shown(0)
    assert [view.name for view in photo.views] == [
        "photo",
        f"Grad-CAM: {NAMES[2]}",
        f"{NAMES[2]}, not {NAMES[0]}",
        "attention",
    ]
    assert (photo.label, photo.predicted, photo.certainty) == (NAMES[0], NAMES[2], "sure")
    assert [view.name.rpartition(": ")[2] for view in album.shown(1).views][2] == "nothing speaks for it"
    assert len(Album(make(attention=False).evaluation).shown(0).views) == 3


def test_maps_are_drawn_as_the_service_draws_them(make: Make) -> None:
    """By the centres of their cells, where the file says so."""
    evaluation = replace(make().evaluation, centres={"last": (20.0, 20.0, 4.0, 4.0)})
    beside, placed = (
        Album(replace(evaluation, placed_by_centres=by_centres)).shown(0).views for by_centres in (False, True)
    )
    assert [one.url == other.url for one, other in zip(beside, placed, strict=True)] == [True, False, False, False]


def test_a_photo_has_its_first_marks(marked: Contents) -> None:
    """At most three, in the graph's order, numbered where they are read; one that is not located has no number."""
    evaluation = marked.evaluation
    assert evaluation.marks is not None
    assert evaluation.readings is not None
    for index in range(len(evaluation.samples)):
        photo = Album(evaluation).marked(index)
        first, second = np.argsort(-evaluation.probabilities[index], kind="stable")[:2]
        gains = evaluation.marks.difference(first, second)
        order = [mark for mark in evaluation.readings.ranked[index] if gains[mark] > 0][:3]
        assert [evaluation.marks.names[mark] for mark in order] == [mark.name for mark in photo.marks]
        stated = [(mark.typical, mark.typical_versus) for mark in photo.marks]
        np.testing.assert_array_equal(stated, evaluation.marks.table[[first, second]][:, order].T)
        numbers = [mark.number for mark in photo.marks if mark.name != "yellow tail"]
        assert numbers == list(range(1, len(numbers) + 1))
        assert all(mark.number == 0 for mark in photo.marks if mark.name == "yellow tail")
        assert (photo.predicted, photo.second) == (evaluation.names[first], evaluation.names[second])


def test_marks_at_one_place_share_its_number(marked: Contents) -> None:
    """All maps are highest at the same cell: every mark that is placed has the number 1, which is drawn there."""
    evaluation = marked.evaluation
    assert evaluation.readings is not None
    peaks = np.full_like(evaluation.readings.spots.peaks, 20)
    readings = replace(evaluation.readings, spots=replace(evaluation.readings.spots, peaks=peaks))
    photo = Album(replace(evaluation, readings=readings)).marked(1)
    assert {1} == {mark.number for mark in photo.marks if mark.name != "yellow tail"}
    nothing = replace(evaluation, readings=None)
    assert Album(nothing).marked(1).marks == []
    assert photo.view.url != Album(nothing).marked(1).view.url


def test_look_alikes_show_both_sides_of_the_contrast(make: Make) -> None:
    """The photo, what speaks for the wrong class, what speaks for the right one, and an example of the wrong one."""
    asked: list[tuple[list[int], list[int]]] = []

    def maps(images: Any, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        asked.append((first.tolist(), second.tolist()))
        return reverse_maps(images, first, second)

    pairs = Album(make().evaluation).look_alikes(maps)
    assert asked == [([2, 0], [0, 1])]
    assert [(one.pair.label, one.pair.taken_for) for one in pairs] == [(NAMES[0], NAMES[2]), (NAMES[1], NAMES[0])]
    assert [view.name for view in pairs[0].views] == [
        f"{NAMES[0]}, taken for {NAMES[2]}",
        f"speaks for {NAMES[2]}, not {NAMES[0]}",
        f"speaks for {NAMES[0]}, not {NAMES[2]}",
        f"for comparison: {NAMES[2]}",
    ]
    assert pairs[0].views[1].url != pairs[0].views[2].url
    assert Album(make(right=True).evaluation).look_alikes(maps) == []


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_a_flat_map_colours_nothing(value: float) -> None:
    """The same colour everywhere, and no division by zero."""
    image = overlay(Image.new("RGB", (8, 8)), np.full((2, 2), value))
    assert len(image.getcolors() or []) == 1
