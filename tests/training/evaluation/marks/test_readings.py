"""What is read off the maps of marks: highest places, values at parts, and the contrast that marks compose."""

from dataclasses import replace

import numpy as np
import pytest

from model.contract.manifest import Mark, Marks
from model.contract.marks import write_table
from training.evaluation.maps.annotations import Annotation
from training.evaluation.maps.regions import Point
from training.evaluation.marks.readings import (
    MarkAnswer,
    MarkList,
    expected_difference,
    joined_readings,
    points_of,
    read,
    spots_of,
)

SIZE = 40
MARKS = MarkList(
    ("red crown", "blue crown", "long tail"),
    ("crown", "crown", "tail"),
    np.array([True, True, False]),
    np.array([[0.9, 0.0, 0.5], [0.1, 0.8, 0.5], [0.2, np.nan, 0.6]]),
)


def known(*points: tuple[int, float, float], beyond: tuple[Point, ...] = ()) -> Annotation:
    """Return an annotation with these parts."""
    return Annotation(np.full(4, np.nan), None, tuple(Point(*point) for point in points), beyond)


def test_spots_are_peaks_and_values_at_parts() -> None:
    """The highest cell's centre, and bilinear values; a map of zeros or of NaN has no highest place."""
    maps = np.zeros((1, 3, 4, 4), dtype=np.float32)
    maps[0, 0, 1, 2], maps[0, 0, 1, 3] = 1, 0.5
    maps[0, 2] = np.nan
    spots = spots_of(maps, points_of([known((0, 25, 15), (2, 30, 15))], 3), SIZE)
    np.testing.assert_array_equal(spots.peaks[0], [[25, 15], [np.nan, np.nan], [np.nan, np.nan]])
    np.testing.assert_allclose(spots.values[0], [[1, np.nan, 0.75], [0, np.nan, 0], [0, np.nan, 0]])


def test_parts_beyond_the_input_are_places_too() -> None:
    """They count as visible, so that a map cannot gain by what the crop cuts off."""
    places = points_of([known((1, 5, 6), beyond=(Point(0, -3, 6),)), known()], 2)
    np.testing.assert_array_equal(places, [[[-3, 6], [5, 6]], [[np.nan, np.nan]] * 2])


def test_contrast_is_the_expected_difference_of_the_two_likeliest_classes() -> None:
    """A place differs as the parts do that are there, by their mark that differs most; the tail is not located."""
    maps = np.stack([np.full((2, 2), value, dtype=np.float32) for value in (1, 1, 100)])[None]
    seen = np.array([[0.5, 0.9, 1.0]])
    answer = MarkAnswer(seen, maps, np.array([[2, 1, 0]]))
    found = read(answer, np.array([[3.0, 2.0, 1.0]]), MARKS, [known()], 0, SIZE)
    np.testing.assert_allclose(found.contrast, np.full((1, 2, 2), 0.8 * 0.25 / 0.251), rtol=1e-5)
    lost = replace(MARKS, located=np.zeros(3, bool))
    assert not read(answer, np.array([[3.0, 2.0, 1.0]]), lost, [known()], 0, SIZE).contrast.any()
    two = replace(MARKS, located=np.ones(3, bool))
    apart = np.zeros((1, 3, 1, 3), np.float32)
    apart[0, :2, 0, 0] = apart[0, 2, 0, 1] = 1
    differences = np.array([[0.2, 0.4, 0.6]])
    np.testing.assert_allclose(expected_difference(apart, differences, two)[0, 0], [0.4, 0.6, 0], rtol=2e-3)
    twice = joined_readings([found, found])
    assert [(2, 3), (2, 3), (2, 3, 2), (2, 3, 0), (2, 2, 2)] == [
        part.shape for part in (twice.seen, twice.ranked, twice.spots.peaks, twice.spots.values, twice.contrast)
    ]


def test_marks_of_a_file() -> None:
    """Names, parts and table come from its manifest; an unknown share is neither typical nor a difference."""
    listed = tuple(Mark(name=name, part=part) for name, part in zip(MARKS.names, MARKS.parts, strict=True))
    listed = (*listed[:2], listed[2].model_copy(update={"located": False}))
    found = MarkList.of_manifest(Marks(marks=listed, table=write_table(MARKS.table), grid=(4, 4)), 3)
    assert (found.names, found.parts) == (MARKS.names, MARKS.parts)
    assert found.located.tolist() == [True, True, False]
    np.testing.assert_allclose(found.table, MARKS.table, atol=1e-3)
    assert found.typical([1, 2]).tolist() == [[False, True, True], [False, False, True]]
    assert found.difference(1, 2).tolist() == pytest.approx([-0.1, 0.8, -0.1], abs=2e-3)
    both = found.difference(np.array([1, 2]), np.array([2, 1]))
    np.testing.assert_array_equal(both, [found.difference(1, 2), found.difference(2, 1)])
