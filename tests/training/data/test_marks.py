"""Marks and their table: which of them have a place."""

import numpy as np

from training.data.marks import Mark, Marks


def test_parts_that_differ_between_classes_are_located() -> None:
    """Crowns differ; eyes are black everywhere, tails have no colour, and the whole bird is no place."""
    sources = ("crown: red", "crown: blue", "eye: red", "eye: blue", "overall: red", "overall: blue", "tail: forked")
    marks = tuple(Mark(" ".join(reversed(s.split(": "))), *s.split(": "), s) for s in sources)  # type: ignore[misc]
    table = np.array([[1, 0, 0.1, 0.9, 1, 0, 1], [0, 1, 0, 1, 0, 1, 0], [np.nan, np.nan, 0, 1, 1, 0, 0]])
    assert [True, True, False, False, False, False, False] == Marks(marks, table).located().tolist()
    beside_a_crown = Marks(marks, table).located({"eye": ("crown", "beak"), "tail": ("eye",), "beak": ("crown",)})
    assert [True, True, True, True, False, False, False] == beside_a_crown.tolist()
