"""Maps against boxes and masks: against Quantus' values for the same input, and formulas written out."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.training.evaluation.peers.make_reference import made_maps
from training.evaluation.maps.localisation import (
    BOX_GRID,
    best_threshold,
    boxes_of,
    enlarge,
    localised,
    max_box_accuracy,
    overlaps,
    peak,
)
from training.evaluation.maps.regions import region_of_box

REFERENCE = json.loads((Path(__file__).parents[1] / "peers" / "reference.json").read_text())
SIZE = BOX_GRID


def blob(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """Return a map of ones inside a box and zeros outside, as fine as the boxes are drawn."""
    return region_of_box((left, top, right, bottom), SIZE).astype(np.float32)


@pytest.mark.parametrize("name", ["pointing", "energy", "rank"])
def test_quantus_agrees(name: str) -> None:
    """Pointing game, relevance mass and relevance rank equal Quantus' on the same maps and masks."""
    maps, regions = made_maps()
    np.testing.assert_allclose(localised(maps, list(regions))[name], REFERENCE[name], atol=1e-6)


def test_enrichment_is_the_share_over_the_area() -> None:
    """A map spread evenly over the image has as much inside as the region is large: 1."""
    region = region_of_box((0, 0, SIZE / 2, SIZE / 2), SIZE)
    found = localised(np.stack([np.ones((8, 8)), np.eye(8)]), [region, region])
    np.testing.assert_allclose(found["enrichment"][0], 1, atol=1e-6)
    np.testing.assert_allclose(found["enrichment"][1], found["energy"][1] * 4, atol=1e-6)


def test_tolerance_reaches_fifteen_pixels() -> None:
    """A peak 12 pixels outside counts with tolerance only, one 24 pixels outside does not at all."""
    values = np.zeros((2, 8, 8), dtype=np.float32)
    values[0, 4, 5] = values[1, 4, 6] = 1  # centres at x = 66 and 78
    region = region_of_box((40, 40, 54, 60), SIZE)
    found = localised(values, [region, region])
    assert [0, 0] == found["pointing"].tolist()
    assert [1, 0] == found["pointing_tolerant"].tolist()


def test_peak_is_the_centre_of_the_highest_cell() -> None:
    """Bilinear enlargement stays highest there; a peak in the corner cell is not drawn to the corner."""
    values = np.zeros((9, 9))
    values[0, 8] = 1
    assert (288 - 16, 16) == peak(values, 288)


def test_zeros_point_nowhere() -> None:
    """A map without evidence hits nothing, though its region is everywhere."""
    found = localised(np.zeros((1, 4, 4)), [np.ones((SIZE, SIZE), dtype=bool)])
    assert (0, 0, 0) == (found["pointing"][0], found["pointing_tolerant"][0], found["energy"][0])


@pytest.mark.parametrize("region", [None, np.zeros((SIZE, SIZE), dtype=bool)])
def test_photos_without_a_region_have_no_figure(region: np.ndarray | None) -> None:
    """No box, no mask, or one that the crop cut off: NaN everywhere, so that it does not count."""
    found = localised(np.ones((1, 4, 4)), [region])
    assert all(np.isnan(values).all() for values in found.values())


def test_box_around_the_map_is_found() -> None:
    """A map that is its box overlaps wholly at every threshold above zero, and by the area at zero."""
    found = overlaps(blob(24, 24, 72, 48)[None], np.array([[24.0, 24, 72, 48]]), SIZE)
    np.testing.assert_allclose(found[0, 1:], 1, atol=1e-6)
    np.testing.assert_allclose(found[0, 0], 48 * 24 / SIZE**2, atol=1e-6)


def test_the_best_of_several_pieces_counts() -> None:
    """With two pieces the one on the object counts, not the box around both."""
    values = np.maximum(blob(0, 0, 20, 20), blob(60, 60, 90, 90))
    found = overlaps(values[None], np.array([[60.0, 60, 90, 90]]), SIZE)
    np.testing.assert_allclose(found[0, 50], 1, atol=1e-6)


def test_max_box_accuracy_by_its_formula() -> None:
    """The mean over 0.3, 0.5, 0.7 of the largest share of photos found at one threshold for all."""
    overlap = np.array([[0.8, 0.2, 0.1], [0.35, 0.6, 0.1], [0.1, 0.55, 0.9]], dtype=np.float32)
    # at least 0.3: 2, 2, 1 of 3; at least 0.5: 1, 2, 1; at least 0.7: 1, 0, 1
    assert max_box_accuracy(overlap) == pytest.approx((2 / 3 + 2 / 3 + 1 / 3) / 3)
    assert best_threshold(overlap) == 1
    assert max_box_accuracy(overlap, np.array([0, 0])) == pytest.approx(1.0)


def test_more_thresholds_change_little() -> None:
    """The published 1,000 thresholds give what 100 give, within half a point, on maps of many shapes."""
    rng = np.random.default_rng(0)
    maps = rng.random((40, 7, 7)).astype(np.float32) ** 2
    boxes = boxes_of([enlarge(values[None], SIZE)[0] > 0.55 for values in maps])
    fine, coarse = overlaps(maps, boxes, SIZE, 1000), overlaps(maps, boxes, SIZE)
    assert max_box_accuracy(fine) - max_box_accuracy(coarse) == pytest.approx(0, abs=0.03)


def test_boxes_of_photos_without_a_region() -> None:
    """A photo without a region has no box, and no overlap with any."""
    boxes = boxes_of([None, np.zeros((SIZE, SIZE), dtype=bool)])
    assert np.isnan(boxes).all()
    assert np.isnan(overlaps(np.ones((2, 4, 4)), boxes, SIZE)).all()
