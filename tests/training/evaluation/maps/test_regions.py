"""Boxes, masks and points on the network's input."""

import numpy as np
import torch
from torch.nn.functional import interpolate

from training.evaluation.maps.regions import box_of_region, region_of_box, value_at


def test_box_holds_the_pixels_whose_centre_it_holds() -> None:
    """A box from 1 to 3 holds pixels 1 and 2; a border through a pixel's centre takes it."""
    region = region_of_box((1, 0.5, 3, 2.4), 4)
    assert [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]] == region.astype(int).tolist()


def test_region_and_box_go_back_and_forth() -> None:
    """The box around a box's region is that box, on whole pixels."""
    assert [2, 3, 7, 9] == box_of_region(region_of_box((2, 3, 7, 9), 12)).tolist()


def test_values_are_those_of_the_enlarged_map() -> None:
    """Reading a map at pixel centres gives what torch's half-pixel bilinear enlargement shows there."""
    values = np.random.default_rng(0).random((5, 7))
    shown = interpolate(torch.from_numpy(values)[None, None], (21, 21), mode="bilinear")[0, 0].numpy()
    y, x = np.mgrid[:21, :21] + 0.5
    np.testing.assert_allclose(value_at(values, x, y, 21), shown, atol=1e-12)
