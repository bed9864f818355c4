"""Maps against parts, and contrast maps against a table of attributes."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from training.evaluation.maps.parts import contrast_score, part_differences, pointed_part
from training.evaluation.maps.regions import Point

SIZE = 80
POINTS = [Point(part, 5 + 10 * part, 40) for part in range(8)]


def row(values: list[float]) -> np.ndarray:
    """Return an 8×8 map with these values in every row: cell i is read at x = 5 + 10 i."""
    return np.tile(np.array(values, dtype=np.float32), (8, 1))


def test_differences_are_total_variation() -> None:
    """Half the sum of differences between the shares of a group's values, each class's adding up to 1."""
    names = ["has_crown_color::red", "has_crown_color::black", "has_tail_shape::fan", "has_tail_shape::notched"]
    table = np.array([[0.6, 0.2, 0.5, 0.5], [0.0, 0.5, 0.2, 0.0]])
    found = part_differences(table, names, ["crown", "tail", "left leg"])
    assert found[0, 1, 0] == pytest.approx((0.75 + 0.75) / 2)
    assert found[0, 1, 1] == pytest.approx((0.5 + 0.5) / 2)
    assert found[0, 0, 0] == 0
    np.testing.assert_array_equal(found, found.transpose(1, 0, 2))
    assert np.isnan(found[:, :, 2]).all(), "no attribute names a leg"


def test_the_group_that_differs_most_counts() -> None:
    """A part named by several groups differs as much as by the group that differs most; left and right are one."""
    names = ["has_wing_color::red", "has_wing_color::black", "has_wing_shape::long", "has_wing_shape::short"]
    table = np.array([[1.0, 0.0, 0.5, 0.5], [0.0, 1.0, 0.5, 0.5]])
    found = part_differences(table, names, ["left wing", "right wing"])
    assert [1.0, 1.0] == found[0, 1].tolist()


def test_upper_tail_is_a_tail_and_a_beak_a_bill() -> None:
    """CUB's words: a part's own word counts wherever it stands in the group's name."""
    names = ["has_upper_tail_color::red", "has_upper_tail_color::black", "has_bill_length::short", "has_bill_length::x"]
    found = part_differences(np.eye(4)[[0, 1]] + np.eye(4)[[2, 3]], names, ["tail", "beak", "belly"])
    assert [1.0, 1.0] == found[0, 1, :2].tolist()
    assert np.isnan(found[0, 1, 2]), "upper, under and parts are no bellies"


def test_contrast_is_a_rank_correlation_over_parts() -> None:
    """The map's values at the parts, ranked against the differences."""
    values = [0.1, 0.9, 0.3, 0.2, 0.8, 0.0, 0.4, 0.7]
    differences = np.array([0.2, 0.8, 0.1, 0.3, 0.9, 0.0, 0.5, 0.4])
    expected = spearmanr(values, differences).statistic
    assert contrast_score(row(values), POINTS, differences, SIZE) == pytest.approx(expected)
    assert contrast_score(row(values), POINTS, np.array(values), SIZE) == pytest.approx(1)
    assert contrast_score(row(values), POINTS, -np.array(values), SIZE) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("points", "differences", "values"),
    [
        (POINTS[:5], np.arange(8.0), np.arange(8.0)),
        (POINTS, np.array([1.0, 2, 3, 4, 5] + [np.nan] * 3), np.arange(8.0)),
        (POINTS, np.ones(8), np.arange(8.0)),
        (POINTS, np.arange(8.0), np.zeros(8)),
    ],
    ids=["five parts", "five named parts", "no differences", "an empty map"],
)
def test_no_score_where_nothing_can_be_ranked(points: list[Point], differences: np.ndarray, values: np.ndarray) -> None:
    """Too few parts, or nothing that varies: the photo does not count."""
    assert np.isnan(contrast_score(row(values.tolist()), points, differences, SIZE))


def test_part_is_hit_within_an_eighth_of_the_box() -> None:
    """The highest cell's centre within an eighth of the box's sides of a part; wider boxes reach wider."""
    values = row([0, 0, 1, 0, 0, 0, 0, 0])  # highest at (25, 5)
    near, wide = np.array([0.0, 0, 40, 40]), np.array([0.0, 0, 80, 40])
    assert [0, 1] == [pointed_part(values, [Point(0, 31, 5)], box, SIZE) for box in (near, wide)]
    assert pointed_part(values, [Point(0, 70, 70), Point(1, 28, 5)], near, SIZE) == 1
    assert pointed_part(values * 0, [Point(0, 5, 5)], near, SIZE) == 0
    assert np.isnan(pointed_part(values, [], near, SIZE))
    assert np.isnan(pointed_part(values, [Point(0, 5, 5)], np.full(4, np.nan), SIZE))
