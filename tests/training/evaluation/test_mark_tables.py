"""The figures of marks by name, of made answers whose figures are known, and what blurring adds to them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.contract.geometry import Resize
from tests.training.evaluation.marks.made import Made
from training.data.samples import Sample
from training.evaluation.evaluate import Evaluation
from training.evaluation.maps.annotations import Annotation
from training.evaluation.maps.regions import Point
from training.evaluation.mark_tables import blur_result, mark_result
from training.evaluation.marks.readings import MarkAnswer, read
from training.evaluation.predictors import Prediction

MADE = Made()
LABELS = (0, 0, 0, 1, 1, 1)


def evaluation(*, located: bool = True) -> Evaluation:
    """Return answers of a network whose marks are read exactly where they are, and seen where the table says so."""
    marks = replace(MADE.marks, located=np.array([True, True, located, True]))
    box = np.array([0.0, 0, 64, 40])
    points = tuple(Point(part, x, y) for part, (x, y) in enumerate(MADE.places.tolist()))
    known = (Annotation(box, None, points),) * len(LABELS)
    maps = np.zeros((len(LABELS), 4, 24, 24), dtype=np.float32)
    for mark, part in enumerate((0, 0, 1, 2)):
        x, y = (MADE.places[part] / 4).astype(int)
        maps[:, mark, y, x] = 1
    logits = np.array([[2.0, 0.0], [0.0, 2.0]])[list(LABELS)]
    seen = marks.table[list(LABELS)] * 0.9
    answer = MarkAnswer(seen, maps, np.argsort(-seen, axis=1))
    gradcam = np.zeros((len(LABELS), 3, 3), dtype=np.float32)
    gradcam[:, 2, 0] = 1
    return Evaluation(
        tuple(Sample(Path("photo"), label) for label in LABELS),
        Prediction(logits, {"last": gradcam}, {"last": gradcam}, None),
        known,
        Resize(size=MADE.size, crop=MADE.size),
        1.0,
        ("robin", "tit"),
        MADE.parts,
        marks=marks,
        readings=read(answer, logits, marks, known, len(MADE.parts), MADE.size),
    )


def test_perfect_marks_have_perfect_figures() -> None:
    """Every map hits its part, every mark is distinguished; chance stands beside."""
    found = mark_result(evaluation())
    assert found is not None
    for name in ("mark_auroc", "mark_auroc_product", "mark_hits", "mark_auc"):
        assert (found.figures[name].value, found.figures[name].n) == (1, len(LABELS)), name
    assert found.figures["mark_auroc_minus_product"].value == 0
    assert found.figures["mark_hits_centred_gaussian"].value == 0
    rows = {(row.name, row.part) for row in found.places}
    assert {(name, "") for name in ("marks", "gradcam", "contrast", "centred_gaussian", "box_centre", "random")} <= rows
    assert {("marks", part) for part in MADE.parts} <= rows
    assert "mark_hits_located" not in found.figures
    line = found.to_dict()["mark_places"][0]
    assert (line["map"], line["part"], line["pairs"], line["hits"]["value"]) == ("marks", "", 18, 1)


@pytest.mark.parametrize("placed", [False, True])
def test_maps_of_the_class_are_placed_as_they_are_drawn(placed: bool) -> None:
    """By the centres of its cells the class's map points at the crown; cell beside cell it points beside it."""
    made = evaluation()
    x, y = MADE.places[0]
    cells = np.zeros((len(LABELS), 3, 3), dtype=np.float32)
    cells[:, 1, 1] = 1
    step = MADE.size / 3
    made = replace(
        made,
        prediction=replace(made.prediction, gradcam={"last": cells}),
        centres={"last": (float(x - step), float(y - step), step, step)},
        placed_by_centres=placed,
    )
    found = mark_result(made)
    assert found is not None
    row = next(row for row in found.places if (row.name, row.part) == ("gradcam", MADE.parts[0]))
    assert row.figures["hits"].value == placed


def test_marks_that_are_not_located_are_left_out_of_a_figure_of_their_own() -> None:
    """The whole stays; beside it stand the marks that the network says it can place."""
    found = mark_result(evaluation(located=False))
    assert found is not None
    pairs = {(row.name, row.part): row.pairs for row in found.places}
    assert (pairs["marks", ""], pairs["marks", "located"]) == (18, 12)
    assert found.figures["mark_hits_located"].value == 1


def test_no_marks_no_figures() -> None:
    """A network without marks has none; one whose parts nobody annotated has areas alone."""
    assert mark_result(replace(evaluation(), readings=None)) is None
    nowhere = replace(evaluation(), parts=(), annotations=(Annotation(np.full(4, np.nan), None, ()),) * len(LABELS))
    readings = replace(nowhere.readings, spots=replace(nowhere.readings.spots, values=np.zeros((6, 4, 0))))  # type: ignore[arg-type, union-attr]
    found = mark_result(replace(nowhere, readings=readings))
    assert found is not None
    assert {"mark_auroc", "mark_auroc_product", "mark_auroc_minus_product"} == set(found.figures)
    assert not found.places


@pytest.mark.parametrize(("weights", "share"), [((8, 0, 0), 1), ((0, 4, 4), 0)])
def test_blur_adds_what_the_named_place_costs(weights: tuple[float, float, float], share: float) -> None:
    """The first mark of a robin is its red crown: a network that decides there loses most by it."""
    answers = evaluation()
    found = mark_result(answers)
    assert found is not None
    blurred = blur_result(answers, found, MADE.network(weights), MADE.image, range(3))
    assert (blurred.figures["evidence_in_place"].value, blurred.figures["evidence_in_place"].n) == (share, 3)
    assert blurred.figures["seen_sees"].value == 1
    assert {"evidence_in_place_gradcam", "evidence_margin_box_centre", "mark_hits"} <= set(blurred.figures)
    assert [row["part"] for row in blurred.to_dict()["mark_sight"]] == ["", "crown", "tail", "breast"]
