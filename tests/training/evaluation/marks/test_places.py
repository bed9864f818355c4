"""Maps of marks against parts: made photos whose answer is known by hand."""

import numpy as np
import pytest

from training.evaluation.marks.places import chance_spots, hits_and_auc, owners, pair_mean, place_rows
from training.evaluation.marks.readings import MarkList, Spots, spots_of

SIZE = 80
PARTS = ("beak", "crown", "left eye", "left wing", "right wing", "tail")
MARK_PARTS = ("bill", "eye", "wing", "uppertail", "head")
AT = owners(MARK_PARTS, PARTS)
POINTS = np.stack([np.arange(6) * 12.0 + 10, np.full(6, 40.0)], axis=1)
SIDES = np.array([[80.0, 80.0]])
ALL = np.ones((1, 5), dtype=bool)


def peak_at(*parts: int) -> Spots:
    """Return, for each mark, a map that is highest at one of the parts, and lower the further from it."""
    distances = np.linalg.norm(POINTS[None] - POINTS[list(parts)][:, None], axis=2)
    return Spots(POINTS[list(parts)][None], -distances[None])


def test_marks_find_their_parts_by_words() -> None:
    """A bill is a beak, wings have two sides; an upper tail is none of these parts, and the head is not one."""
    assert [[0], [2], [3, 4], [], []] == [np.flatnonzero(row).tolist() for row in AT]
    assert owners(("upper tail", "tailor"), PARTS).sum(axis=1).tolist() == [1, 0]
    assert owners((), PARTS).shape == (0, 6)


def test_a_perfect_map_has_every_hit() -> None:
    """Each map is highest at its own part; marks without an annotated part do not count."""
    hits, auc = hits_and_auc(peak_at(0, 2, 4, 0, 0), ALL, AT, POINTS[None], SIDES)
    np.testing.assert_array_equal(hits, [[1, 1, 1, np.nan, np.nan]])
    np.testing.assert_array_equal(auc, [[1, 1, 1, np.nan, np.nan]])


def test_a_map_elsewhere_loses_by_rank() -> None:
    """The bill's map peaks at the crown, 12 px away, over the reach of 10: one of five other parts is higher."""
    hits, auc = hits_and_auc(peak_at(1, 2, 5, 0, 0), ALL, AT, POINTS[None], SIDES)
    assert hits[0, :3].tolist() == [0, 1, 0]
    # Of the wings the better one counts: the tail alone is higher. The eye and the bill tie at the same distance.
    assert auc[0, :3].tolist() == pytest.approx([(3 + 0.5) / 5, 1, 3 / 4])


@pytest.mark.parametrize(("shift", "hit"), [((10, -10), 1), ((10.5, 0), 0), ((0, 10.5), 0)])
def test_reach_is_an_eighth_of_each_side(shift: tuple[float, float], hit: int) -> None:
    """A box of 80 px reaches 10 px to each side, corners included."""
    spots = peak_at(0, 0, 0, 0, 0)
    spots = Spots(spots.peaks + np.array(shift), spots.values)
    assert hits_and_auc(spots, ALL, AT, POINTS[None], SIDES)[0][0, 0] == hit


def test_what_does_not_count() -> None:
    """Marks that are not typical, parts that are not visible, photos without a box; a map of zeros hits nothing."""
    points = np.array([POINTS, POINTS, POINTS])
    points[1, 0] = np.nan
    spots = Spots(np.full((3, 1, 2), np.nan), np.zeros((3, 1, 6)))
    sides = np.array([[80.0, 80], [80, 80], [np.nan, np.nan]])
    typical = np.array([[True, False, True, True, True]] * 3)
    hits, auc = hits_and_auc(spots, typical, AT, points, sides)
    np.testing.assert_array_equal(hits[:, :3], [[0, np.nan, 0], [np.nan, np.nan, 0], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(auc[:, :3], [[0.5, np.nan, 0.5], [np.nan, np.nan, 0.5], [0.5, np.nan, 0.5]])


def test_pairs_are_counted_photos_are_drawn() -> None:
    """The mean is over pairs, n are photos; a photo without a pair is none of them."""
    figure = pair_mean(np.array([[1, 1, 1], [0, np.nan, np.nan], [np.nan] * 3]))
    assert (figure.value, figure.n) == (0.75, 2)
    assert figure.low <= 0.75 <= figure.high


def test_chance_knows_no_part() -> None:
    """Random maps rank the own part in the middle and hit as often as the reach is large; rows stand part by part."""
    count = 3000
    rng = np.random.default_rng(0)
    points = rng.uniform(0, SIZE, (count, 6, 2))
    middles = np.full((count, 2), 30.0)
    spots = chance_spots(points, middles, (16, 16), SIZE)
    marks = MarkList(MARK_PARTS, MARK_PARTS, np.array([True, True, False, True, True]), np.ones((1, 5)))
    rows = place_rows(spots, marks, np.ones((count, 5), bool), points, np.full((count, 2), 40.0), PARTS)
    found = {(row.name, row.part): row for row in rows}
    assert {part for _, part in found} == {"", "located", "bill", "eye", "wing"}
    assert found["random", ""].pairs == 3 * count
    assert found["random", "located"].pairs == 2 * count
    for part in ("bill", "eye"):
        assert found["random", part].figures["auc"].value == pytest.approx(0.5, abs=0.02)
        # 10 of 80 pixels both ways, less what the border cuts off.
        assert found["random", part].figures["hits"].value == pytest.approx((10 / 80) ** 2 * 0.94**2, abs=0.006)
    assert spots["box_centre"].peaks[0, 0].tolist() == [30, 30]
    assert spots["centred_gaussian"].peaks[0, 0].tolist() == [40, 40]
    nearest = np.linalg.norm(points - 30, axis=2).argmin(axis=1)
    np.testing.assert_array_equal(spots["box_centre"].values[:, 0].argmax(axis=1), nearest)


def test_maps_are_read_as_they_are() -> None:
    """From a map to its figures: a blob on the crown, whose mark is hit, and whose value there is the highest."""
    rows, columns = np.mgrid[0:20, 0:20] * 4 + 2
    blob = np.exp(-((columns - POINTS[1, 0]) ** 2 + (rows - POINTS[1, 1]) ** 2) / 200)
    spots = spots_of(blob[None, None].astype(np.float32), POINTS[None], SIZE)
    hits, auc = hits_and_auc(spots, np.ones((1, 1), bool), owners(("crown",), PARTS), POINTS[None], SIDES)
    assert (hits.item(), auc.item()) == (1, 1)
