"""A made object with three coloured parts, and networks whose answers follow from its colours."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from training.evaluation.marks.blur import Ask, Scene, scenes_of
from training.evaluation.marks.readings import MarkList

SIZE = 96
PARTS = ("crown", "tail", "breast")
PLACES = np.array([[20.0, 20.0], [76.0, 20.0], [48.0, 76.0]])
SIDES = np.array([[64.0, 40.0]])
"""Of the box: a disc has a radius of 8 pixels."""
SQUARE = 6
"""Half of a coloured square's side: blurred by a sigma of 8, it is grey."""
NAMES = ("red crown", "blue crown", "red tail", "red breast")
TABLE = np.array([[0.9, 0.1, 0.9, 0.8], [0.1, 0.9, 0.8, 0.9]])


class Made:
    """Photos of one object, all alike: every part is red."""

    parts, places, size, names = PARTS, PLACES, SIZE, NAMES

    def __init__(self) -> None:
        self.marks = MarkList(NAMES, ("crown", "crown", "tail", "breast"), np.ones(4, bool), TABLE)
        self.count = 6
        self.points = np.stack([PLACES] * self.count)
        self.sides = np.repeat(SIDES, self.count, axis=0)
        self.labels = np.zeros(self.count, np.int64)
        self.scenes: Sequence[Scene] = scenes_of(range(self.count), self.points, self.sides, SIZE)

    def image(self, index: int) -> Tensor:
        """Return a grey photo with a red square at every part."""
        pixels = torch.full((3, SIZE, SIZE), 120 + index, dtype=torch.uint8)
        for x, y in PLACES.astype(int).tolist():
            pixels[:, y - SQUARE : y + SQUARE, x - SQUARE : x + SQUARE] = torch.tensor([250, 20, 20])[:, None, None]
        return pixels

    def redness(self, images: Tensor) -> np.ndarray:
        """Return how red each part of some images is, 0 to 1, (n, P)."""
        squares = [
            images[:, :, y - SQUARE : y + SQUARE, x - SQUARE : x + SQUARE].float().mean((2, 3))
            for x, y in PLACES.astype(int).tolist()
        ]
        return torch.stack([(part[:, 0] - part[:, 1]) / 230 for part in squares], dim=1).numpy()

    def network(self, weights: Sequence[float], *, sees: bool = True) -> Ask:
        """Return a network of two classes.

        Args:
            weights: how much the redness of each part speaks for the first class.
            sees: each mark follows its own part; else all follow the class.
        """

        def ask(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
            red = self.redness(images)
            first = red @ np.array(weights)
            seen = red[:, [0, 0, 1, 2]] if sees else np.repeat(red.mean(axis=1)[:, None], 4, axis=1)
            return np.stack([first, np.zeros_like(first)], axis=1), 0.05 + 0.9 * seen

        return ask
