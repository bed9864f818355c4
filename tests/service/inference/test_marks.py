"""The marks of a prediction: which are named, in which order, where they are, and what is missing."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Never

import numpy as np
import numpy.typing as npt
import pytest

from model.contract.geometry import Resize
from model.contract.manifest import Manifest
from service.inference.engine import OnnxEngine, Question
from service.inference.marks import MarkReader
from service.inference.predictor import Prediction
from service.inference.served import ServedModel
from tests.service.inference.conftest import ON_CPU
from tests.service.tiny_model import SIDE, marked_manifest, tiny_model

RANKS = tuple(range(-1, -9, -1))
RED, GREEN, BLUE, GREY = range(4)


def never() -> Never:
    """Decode nothing: the marks need no pixels."""
    raise AssertionError


def predict(
    pixels: npt.NDArray[np.uint8],
    targets: tuple[int, ...] = (-1,),
    versus: tuple[int, ...] | None = None,
    *,
    marks: tuple[int, ...] = RANKS,
    size: tuple[int, int] = (160, 80),
    manifest: Manifest | None = None,
) -> Prediction:
    """Return the tiny model's prediction of the pixels that it sees, as of a photo of this size."""
    manifest = manifest or marked_manifest()
    engine = OnnxEngine(tiny_model(manifest), ON_CPU)
    question = Question.about(manifest, targets, versus, marks=marks)
    outputs = engine.run(pixels[None], question)
    served = ServedModel("tiny", "2", "", manifest, engine, datetime.now(UTC))
    of_image: Any = {name: values[0] for name, values in outputs.present().items()}
    return Prediction(None, *size, question=question, served=served, timings={}, reopen=never, **of_image)


def read(prediction: Prediction) -> MarkReader:
    """Return what reads its marks."""
    marks = prediction.served.manifest.marks
    assert marks is not None
    return MarkReader(prediction, marks)


def coloured(*colour: int, at: tuple[int, int] = (0, 0), spot: tuple[int, ...] | None = None) -> npt.NDArray[np.uint8]:
    """Return what the network sees: one colour, and a spot of another in the cell of this row and column."""
    pixels = np.full((SIDE, SIDE, 3), colour, np.uint8)
    pixels[at] = spot or colour
    return pixels


def test_seen_marks_in_the_graphs_order() -> None:
    """Those of the class, by how surely they are seen times how typical they are; never what is not seen."""
    found = read(predict(coloured(255, 0, 0))).seen(8)
    assert ["red crown", "чёрный глаз", "red wing"] == [one.mark.name for one in found]
    assert pytest.approx([0.9, 0.8, 0.6], abs=1e-3) == [one.typical for one in found]
    assert [None] * 3 == [one.typical_versus for one in found]
    assert all(one.seen >= 0.5 for one in found)
    assert ["red crown"] == [one.mark.name for one in read(predict(coloured(255, 0, 0))).seen(1)]


def test_a_contrast_names_what_tells() -> None:
    """Against another class only the marks count that are more typical of the first."""
    prediction = predict(coloured(255, 250, 0), (RED, GREY), (GREY, RED))
    found = read(prediction).seen(8)
    assert [("red crown", 0.4), ("red wing", 0.4)] == [
        (one.mark.name, round(one.typical_versus or 0, 3)) for one in found
    ]
    reverse = predict(coloured(255, 250, 0), (GREY, RED), (RED, GREY))
    assert ["green throat"] == [one.mark.name for one in read(reverse).seen(8)]


def test_an_unknown_share_tells_nothing() -> None:
    """Nobody said whether blue birds have a red wing: it speaks for red birds, and does not set them against blue."""
    assert "red wing" in [one.mark.name for one in read(predict(coloured(255, 0, 0), (RED,))).seen(8)]
    contrast = read(predict(coloured(255, 0, 0), (RED, BLUE), (BLUE, RED), marks=(*RANKS[:7], 3)))
    assert ["red crown"] == [one.mark.name for one in contrast.seen(8)]
    assert (pytest.approx(0.6, abs=1e-3), None) == (contrast.at_slot(7).typical, contrast.at_slot(7).typical_versus)
    unseen = read(predict(coloured(0, 0, 255), (RED, BLUE), (BLUE, RED)))
    assert ["red crown"] == [one.mark.name for one in unseen.missing(8)]
    unknown = read(predict(coloured(255, 0, 0), (BLUE,)))
    assert "red wing" not in [one.mark.name for one in unknown.seen(8)]
    assert "red wing" not in [one.mark.name for one in unknown.missing(8)]


def test_missing_marks_are_typical_and_not_seen() -> None:
    """What tells most comes first; in a contrast, only what tells."""
    missing = read(predict(coloured(0, 255, 0), (RED,))).missing(8)
    assert ["red crown", "red wing"] == [one.mark.name for one in missing]
    assert [(None, None, None)] * 2 == [(one.at, one.evidence, one.map) for one in missing]
    assert ["red crown"] == [one.mark.name for one in read(predict(coloured(0, 255, 0), (RED,))).missing(1)]
    contrasted = read(predict(coloured(0, 0, 0), (GREY, GREEN), (GREEN, GREY))).missing(8)
    assert [] == [one.mark.name for one in contrasted]


@pytest.mark.parametrize(
    ("size", "resize", "expected"),
    [
        ((SIDE, SIDE), Resize(size=SIDE, crop=SIDE), (5.5, 2.5)),
        ((80, 80), Resize(size=SIDE, crop=SIDE), (55, 25)),
        ((160, 80), Resize(size=SIDE, crop=SIDE), (40 + 55, 25)),
        ((80, 160), Resize(size=SIDE, crop=SIDE), (55, 40 + 25)),
        ((160, 80), Resize(size=SIDE, crop=SIDE, mode="stretch"), (110, 25)),
        ((120, 120), Resize(size=12, crop=SIDE), (20 + 55, 20 + 25)),
    ],
)
def test_places_are_in_the_original_photo(size: tuple[int, int], resize: Resize, expected: tuple[float, float]) -> None:
    """The place is the middle of the highest cell, taken back through crop and scaling."""
    manifest = marked_manifest().model_copy(update={"resize": resize})
    pixels = coloured(200, 0, 0, at=(2, 5), spot=(255, 0, 0))
    (crown, *_) = read(predict(pixels, size=size, manifest=manifest)).seen(8)
    assert pytest.approx(expected) == crown.at


def test_a_part_that_cannot_be_located_has_no_place() -> None:
    """Its words stand alone."""
    eye = next(one for one in read(predict(coloured(255, 0, 0))).seen(8) if not one.mark.located)
    assert (None, None) == (eye.at, eye.evidence)


def test_evidence_is_where_the_decision_looked() -> None:
    """A mark in the place of all of the class's evidence has as much as the image has cells; one elsewhere has none."""
    pixels = coloured(0, 0, 0, at=(2, 5), spot=(255, 0, 0))
    pixels[6, 1] = 0, 0, 255
    reader = read(predict(pixels, (RED,), marks=(0, 2)))
    assert pytest.approx(SIDE * SIDE, rel=1e-3) == reader.at_slot(0).evidence
    assert pytest.approx(0, abs=1e-3) == reader.at_slot(1).evidence
    # An even map is neither here nor there.
    assert pytest.approx(1) == read(predict(coloured(255, 0, 0), (RED,), marks=(0,))).at_slot(0).evidence


def test_evidence_takes_the_class_map_to_the_grid_of_the_marks() -> None:
    """A coarser map of the class is enlarged as it is drawn, and its evidence stays in its place."""
    pixels = coloured(0, 0, 0, at=(1, 6), spot=(255, 0, 0))
    prediction = predict(pixels, (RED,), marks=(0,))
    coarse = prediction.gradcam.reshape(1, 4, 2, 4, 2).mean(axis=(2, 4))
    share = read(replace(prediction, gradcam=coarse)).at_slot(0).evidence
    assert share is not None
    assert 1 < share < SIDE * SIDE


def test_without_evidence_there_is_none() -> None:
    """Where nothing speaks for the class, or another layer's map was requested, evidence is unknown, not zero."""
    assert read(predict(coloured(0, 255, 255), (RED,), marks=(0,))).at_slot(0).evidence is None
    prediction = predict(coloured(255, 0, 0), (RED,))
    question = Question(prediction.question.target, prediction.question.versus, 1, prediction.question.mark)
    prediction = replace(prediction, question=question)
    assert [None] * 3 == [one.evidence for one in read(prediction).seen(8)]


def test_a_named_mark_beside_the_ranks_is_not_listed() -> None:
    """Only codes of ranks in their order are listed; a mark requested by name is in its own slot."""
    prediction = predict(coloured(255, 0, 0), marks=(*RANKS[:7], 0))
    reader = read(prediction)
    assert "red crown" == reader.at_slot(7).mark.name
    assert 3 == len(reader.seen(8))
