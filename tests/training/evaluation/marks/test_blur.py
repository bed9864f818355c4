"""Discs that are blurred: exactly these pixels, the colours gone, nothing else changed."""

import numpy as np
import torch
from torch import Tensor

from tests.training.evaluation.marks.made import Made
from training.evaluation.marks.blur import Trial, ask_blurred, blur_discs, margins, scenes_of


def test_disc_is_round_and_nothing_else_changes() -> None:
    """Pixels whose centre lies within the radius of some place; a place beyond the border is cut off."""
    image, soft = torch.zeros(3, 20, 20, dtype=torch.uint8), torch.full((3, 20, 20), 9, dtype=torch.uint8)
    found = blur_discs(image, soft, np.array([[10.0, 10.0], [-1.0, 0.0]]), 4)
    rows, columns = np.mgrid[0:20, 0:20] + 0.5
    inside = (np.hypot(columns - 10, rows - 10) <= 4) | (np.hypot(columns + 1, rows) <= 4)
    np.testing.assert_array_equal(found.numpy(), np.broadcast_to(9 * inside, (3, 20, 20)))


def test_blur_takes_a_parts_colour(made: Made) -> None:
    """The square's redness falls by half and more; the other parts keep theirs exactly."""
    scene = made.scenes[0]
    shown: list[Tensor] = []

    def ask(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        shown.append(images)
        return made.network((1, 1, 1))(images)

    logits, seen = ask_blurred(ask, made.image, [Trial(scene, made.places[:1]), Trial(scene, made.places[1:])])
    red = made.redness(torch.cat(shown))
    before = made.redness(made.image(0)[None])[0]
    assert (red[0, 0] < 0.5 * before[0], red[0, 1:].tolist()) == (True, before[1:].tolist())
    assert (red[1, 0], (red[1, 1:] < 0.5 * before[1:]).tolist()) == (before[0], [True, True])
    assert [(2, 2), (2, 4), torch.uint8] == [logits.shape, seen.shape, shown[0].dtype]


def test_photos_are_blurred_in_batches(made: Made) -> None:
    """More trials than a batch holds come back in order, each of its own photo."""
    trials = [Trial(scene, place[None]) for scene in made.scenes for place in made.places for _ in range(3)]
    _, seen = ask_blurred(made.network((1, 1, 1)), made.image, trials)
    lowest = seen[:, [0, 2, 3]].argmin(axis=1)
    assert lowest.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] * made.count


def test_scenes_need_a_box_and_a_part_inside(made: Made) -> None:
    """The radius is an eighth of the longer side; parts beyond the input and discs that overlap do not count."""
    points = made.points[:3].copy()
    points[0, 2] = (48, made.size + 1)
    points[2] = np.nan
    sides = np.array([[64.0, 40.0], [np.nan, np.nan], [64.0, 40.0]])
    scenes = scenes_of((0, 1, 2), points, sides, made.size)
    assert [(0, 8.0)] == [(scene.index, scene.radius) for scene in scenes]
    assert scenes[0].apart(np.array([[35.9, 20.0]])).tolist() == [False, True, False]
    assert scenes[0].apart(np.array([[36.0, 20.0]])).tolist() == [True, True, False]
    assert not scenes[0].apart(np.array([[np.nan, np.nan]])).any()


def test_margin_is_the_difference_of_two_logits() -> None:
    """Of one class over another, photo by photo."""
    assert margins(np.array([[3.0, 1, 0], [0, 5, 7]]), np.array([0, 1]), np.array([1, 2])).tolist() == [2, -2]
