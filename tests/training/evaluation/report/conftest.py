"""A made evaluation of the tiny data set: no network answers here."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from torch import Tensor

from model.contract.geometry import Resize
from training.data.samples import Attributes, Dataset
from training.evaluation.evaluate import Evaluation
from training.evaluation.figures import Figure, mean, share
from training.evaluation.maps.annotations import Annotation
from training.evaluation.maps.regions import Point
from training.evaluation.mark_tables import mark_result
from training.evaluation.marks.readings import MarkAnswer, MarkList, read
from training.evaluation.marks.sight import SightRow
from training.evaluation.predictors import Prediction
from training.evaluation.report.page import Contents
from training.evaluation.tables import figures_of, map_rows

NAMES = ("<script>alert(1)</script>", "Grünfink & Söhne", "翡翠")
PARTS = ("beak", "crown", "left eye", "back", "breast", "tail", "left wing")
SIDE = 48
Make = Callable[..., Contents]


def reverse_maps(images: Tensor, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return a gradient to the right for one order of the classes, and to the left for the other."""
    assert images.shape[1:] == (3, SIDE, SIDE)
    assert (first != second).all()
    rise = np.tile(np.arange(3, dtype=np.float32), (3, 1))
    return np.stack([np.stack([rise, rise[:, ::-1]])] * len(images))


@pytest.fixture(scope="session")
def make(birds: Dataset) -> Make:
    """Return a function that makes the contents of a report of the six test photos; keywords replace some of them."""

    @cache
    def made(located: bool, attention: bool, right: bool) -> Contents:
        labels = np.array([sample.label for sample in birds.test])
        logits = np.linspace(1, 5, len(labels))[:, None] * np.eye(3)[labels]
        if not right:
            logits[0] = (0, 0, 5)
            logits[2] = (0.9, 0.8, 0)
        rng = np.random.default_rng(0)
        maps = rng.random((len(labels), 3, 3)).astype(np.float32)
        contrast = rng.random((len(labels), 3, 3)).astype(np.float32)
        contrast[1] = 0
        points = tuple(Point(part, 6.0 * part + 3, 40.0 - 5 * part) for part in range(len(PARTS)))
        known = Annotation(np.array([5.0, 5, 30, 30]), None, points)
        nothing = Annotation(np.full(4, np.nan), None, ())
        table = rng.random((3, 6))
        groups = ("bill", "crown", "back")
        evaluation = Evaluation(
            samples=birds.test,
            prediction=Prediction(logits, {"last": maps}, {"last": contrast}, maps if attention else None),
            annotations=(known if located else nothing,) * len(labels),
            resize=Resize(size=SIDE, crop=SIDE),
            temperature=1.25,
            names=NAMES,
            parts=PARTS,
            attributes=Attributes(tuple(f"has_{group}_color::{value}" for group in groups for value in "ab"), table),
        )
        rows = map_rows(evaluation)
        return Contents(
            title="run & <i>data</i>",
            evaluation=evaluation,
            figures=figures_of(evaluation, rows),
            rows=rows,
            pair_maps=reverse_maps,
            provenance={"model_sha256": "ab" * 32, "commit": "c0ffee", "date": "2026-01-02", "command": "evaluate 'x'"},
            recipe={"name": "tiny", "optim": {"epochs": 2}},
        )

    def changed(*, located: bool = True, attention: bool = True, right: bool = False, **changes: object) -> Contents:
        return replace(made(located, attention, right), **changes)  # type: ignore[arg-type]

    return changed


@pytest.fixture(scope="session")
def marked(make: Make) -> Contents:
    """Return the contents of a report of a network with four marks, whose places and parts were blurred."""
    contents = make()
    names = ("<b>red</b> crown", "bill 🐦", "plain back", "yellow tail")
    parts = ("crown", "bill", "back", "tail")
    rng = np.random.default_rng(0)
    count = len(contents.evaluation.samples)
    table = np.array([[0.9, 0.6, 0.1, 0.7], [0.1, 0.9, 0.8, 0.7], [0.2, 0.6, 0.9, np.nan]])
    marks = MarkList(names, parts, np.array([True, True, True, False]), table)
    maps = rng.random((count, 4, 6, 6)).astype(np.float32)
    logits, known = contents.evaluation.prediction.logits, contents.evaluation.annotations
    ranked = np.argsort(rng.random((count, 4)), axis=1)
    readings = read(MarkAnswer(rng.random((count, 4)), maps, ranked), logits, marks, known, len(PARTS), SIDE)
    evaluation = replace(contents.evaluation, marks=marks, readings=readings)
    found = mark_result(evaluation)
    assert found is not None
    spread = np.linspace(0.2, 0.9, 20)
    figures = {
        name: mean(spread)
        for place in ("", "_gradcam", "_box_centre")
        for name in (f"evidence_in_place{place}", f"evidence_margin{place}")
    }
    rows = [SightRow(part, {"seen": share(spread > 0.3), "product": share(spread > 0.6)}) for part in ("", "crown")]
    found = replace(found, figures={**found.figures, **figures, "seen_sees": mean(spread)}, sight=rows)
    return replace(contents, evaluation=evaluation, marks=found, figures={**contents.figures, **found.figures})


@pytest.fixture
def further() -> dict[str, Figure]:
    """Return figures as faithfulness and sanity name them, and an unknown one."""
    names = (
        "deletion_gradcam",
        "deletion_random",
        "deletion_gradcam_minus_random",
        "road_morf_gradcam",
        "road_gradcam",
        "sanity_head",
        "something_new",
    )
    return {name: mean(np.linspace(-0.1, 0.1 * number, 20)) for number, name in enumerate(names, 1)}
