"""Evidence in place, of made networks that decide by one part."""

from dataclasses import replace

import numpy as np

from tests.training.evaluation.marks.made import Made
from training.evaluation.marks.evidence import chosen_marks, evidence_figures, likeliest_other
from training.evaluation.marks.readings import MarkList


def figures(made: Made, weights: tuple[float, float, float], **places: int | None) -> dict[str, float]:
    """Return the figures, by name, of rows that name a part, or none, on every photo."""
    rows = {
        row: np.full((made.count, 2), np.nan) if part is None else np.stack([made.places[part]] * made.count)
        for row, part in places.items()
    }
    logits = np.tile(made.network(weights)(made.image(0)[None])[0], (made.count, 1))
    found = evidence_figures(made.network(weights), made.image, made.scenes, rows, logits, made.labels)
    assert all(figure.n == made.count for figure in found.values())
    return {name: figure.value for name, figure in found.items()}


def test_the_place_that_decides_costs_more(made: Made) -> None:
    """A network that decides by the crown: the crown's place costs more in every photo, the tail's in none."""
    found = figures(made, (8, 0, 1), marks=0, gradcam=1, contrast=None)
    assert (found["evidence_in_place"], found["evidence_in_place_gradcam"]) == (1, 0)
    assert found["evidence_margin"] > 1
    assert not {name for name in found if name.endswith("contrast")}, "a row that names no place has no figure"


def test_a_network_that_needs_no_place(made: Made) -> None:
    """Where no part counts, none costs more."""
    found = figures(made, (0, 0, 0), marks=0)
    assert (found["evidence_in_place"], found["evidence_margin"]) == (0, 0)


def test_only_right_photos_count(made: Made) -> None:
    """None of them is named rightly, so there is no figure."""
    logits = np.tile([[0.0, 1.0]], (made.count, 1))
    place = {"marks": np.stack([made.places[0]] * made.count)}
    assert evidence_figures(made.network((1, 1, 1)), made.image, made.scenes, place, logits, made.labels) == {}


def test_the_mark_is_the_graphs_first_that_is_typical() -> None:
    """One that is not typical of the class, or does not speak for it, is never chosen."""
    table = np.array([[0.9, 0.6, 0.4, 0.9], [0.1, 0.0, 0.0, 0.9]])
    marks = MarkList(tuple("abcd"), tuple("abcd"), np.ones(4, bool), table)
    ranked = np.array([[3, 2, 0, 1], [2, 1, 3, 0], [0, 1, 2, 3]])
    classes = np.array([0, 0, 1]), np.array([1, 1, 0])
    assert chosen_marks(ranked, marks, *classes).tolist() == [0, 1, -1]
    lost = replace(marks, located=np.array([False, True, True, True]))
    assert chosen_marks(ranked, lost, *classes).tolist() == [1, 1, -1], "it names no place"


def test_the_likeliest_other_is_never_the_photos_own() -> None:
    """Of a photo named wrongly it is the class named."""
    logits = np.array([[3.0, 2, 1], [3.0, 2, 1]])
    assert likeliest_other(logits, np.array([0, 1])).tolist() == [1, 0]
