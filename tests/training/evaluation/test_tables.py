"""The table of maps and the figures at the top, of a made evaluation whose answers are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.contract.geometry import Resize
from model.contract.sets import SetGroup, Sets
from training.data.samples import Attributes, Sample
from training.evaluation.evaluate import Evaluation
from training.evaluation.figures import Figure
from training.evaluation.maps.annotations import Annotation
from training.evaluation.maps.regions import Point
from training.evaluation.predictors import Prediction
from training.evaluation.tables import HEADLINES, MapRow, figures_of, map_rows, photo_measures, values_of

SIZE, COUNT = 64, 12
PARTS = ("back", "beak", "belly", "breast", "crown", "forehead", "nape", "tail")
GROUPS = {"beak": "bill"}


def attributes() -> Attributes:
    """Return two classes that differ the more at a part, the later the part."""
    names, rows = [], ([], [])
    for number, part in enumerate(PARTS):
        word = GROUPS.get(part, part)
        names += [f"has_{word}_color::red", f"has_{word}_color::black"]
        difference = number / len(PARTS)
        rows[0].extend([0.5 + difference / 2, 0.5 - difference / 2])
        rows[1].extend([0.5 - difference / 2, 0.5 + difference / 2])
    return Attributes(tuple(names), np.array(rows))


def evaluation(
    *, wrong: int = 3, boxes: bool = True, parts: bool = True, table: bool = True, layers: tuple[str, ...] = ("last",)
) -> Evaluation:
    """Return answers for photos whose object is in the lower right corner, where the maps look, too.

    Args:
        wrong: photos that are classified wrongly; the map of these looks into the opposite corner.
        boxes: whether the object's box is known.
        parts: whether its parts are: the i-th in column i of the map.
        table: whether the classes' attributes are.
        layers: with maps.
    """
    gradcam = np.zeros((COUNT, 8, 8), dtype=np.float32)
    gradcam[:, 6, 6] = 1
    gradcam[:wrong] = gradcam[:wrong, ::-1, ::-1]
    contrast = np.tile(np.arange(8, dtype=np.float32), (COUNT, 8, 1))
    logits = np.tile([0.0, 2.0], (COUNT, 1))
    box = np.array([40.0, 40, 64, 64]) if boxes else np.full(4, np.nan)
    points = tuple(Point(number, 8 * number + 4, 60) for number in range(len(PARTS))) if parts else ()
    samples = tuple(Sample(Path(f"{number}.jpg"), int(number >= wrong)) for number in range(COUNT))
    return Evaluation(
        samples,
        Prediction(logits, dict.fromkeys(layers, gradcam), dict.fromkeys(layers, contrast), gradcam / 4 + 0.5),
        (Annotation(box, None, points),) * COUNT,
        Resize(size=SIZE, crop=SIZE),
        1.0,
        ("crow", "raven"),
        PARTS if parts else (),
        attributes() if table else None,
    )


def with_centres(*, placed: bool) -> Evaluation:
    """Return answers of a layer whose cells look at the upper left corners of their squares."""
    return replace(evaluation(wrong=0), centres={"last": (-0.5, -0.5, 8, 8)}, placed_by_centres=placed)


def row(rows: list[MapRow], name: str, photos: str = "all", layer: str | None = None) -> MapRow:
    """Return the line of a kind of map."""
    found = [line for line in rows if line.name == name and line.photos == photos and layer in (None, line.layer)]
    assert len(found) == 1
    return found[0]


def test_right_and_wrong_predictions_are_apart() -> None:
    """Nine photos are right and their maps hit; three are wrong and theirs miss."""
    rows = map_rows(evaluation())
    pointing = {photos: row(rows, "gradcam", photos).figures["pointing"] for photos in ("all", "right", "wrong")}
    assert {"all": (0.75, 12), "right": (1, 9), "wrong": (0, 3)} == {
        photos: (figure.value, figure.n) for photos, figure in pointing.items()
    }
    assert row(rows, "gradcam", "right").figures["energy"].value > 0.9


def test_chance_stands_beside_the_maps() -> None:
    """Every kind of chance has its line with the same measures; none of them knows the corner."""
    rows = map_rows(evaluation(wrong=0))
    for name in ("centred_gaussian", "centre", "random"):
        line = row(rows, name)
        assert line.figures.keys() >= row(rows, "gradcam").figures.keys()
        assert line.figures["energy"].value < 0.5
    assert row(rows, "centred_gaussian").figures["enrichment"].value < 1


def test_contrast_follows_the_table() -> None:
    """The map rises along the parts as the classes' difference does: 1 for right photos, none for the others."""
    rows = map_rows(evaluation())
    contrast = row(rows, "contrast").figures
    assert {"contrast"} == contrast.keys()
    assert (pytest.approx(1), 9) == (contrast["contrast"].value, contrast["contrast"].n)
    assert not [line for line in rows if line.name == "contrast" and line.photos == "wrong"]


def test_attention_counts_above_its_minimum() -> None:
    """The attention is one half everywhere but at its peak: with the minimum subtracted its energy is the peak's."""
    rows = map_rows(evaluation(wrong=0))
    assert row(rows, "attention").figures["energy"].value == pytest.approx(
        row(rows, "gradcam").figures["energy"].value, abs=1e-6
    )


def test_box_accuracy_needs_held_out_photos() -> None:
    """The threshold is chosen on other photos; without them there is no such figure."""
    assert "box_acc" not in row(map_rows(evaluation()), "gradcam").figures
    rows = map_rows(evaluation(), held_out=evaluation(wrong=0))
    assert 0 <= row(rows, "gradcam").figures["box_acc"].value <= 1
    assert "max_box_acc_v2" in row(rows, "gradcam").figures


def test_earlier_layers_come_from_other_answers() -> None:
    """Earlier layers are measured on fewer photos; the last layer's line stays that of all."""
    rows = map_rows(evaluation(), every_layer=evaluation(wrong=1, layers=("last", "first")))
    assert (12, 12) == (
        row(rows, "gradcam", layer="last").figures["pointing"].n,
        row(rows, "gradcam", layer="first").figures["pointing"].n,
    )
    assert row(rows, "gradcam", layer="first").figures["pointing"].value == pytest.approx(11 / 12)


def test_data_without_places_have_no_table() -> None:
    """No boxes, masks or parts: no lines, and only the figures of classification."""
    bare = evaluation(boxes=False, parts=False, table=False)
    assert map_rows(bare) == []
    figures = figures_of(bare, [])
    assert {"images", "top1", "ece", "temperature"} <= figures.keys()
    assert set() == figures.keys() & {*HEADLINES, "boxes", "box_area"}


def test_boxes_alone_and_parts_alone() -> None:
    """What is not known is absent, the rest is there."""
    boxed = row(map_rows(evaluation(parts=False, table=False)), "gradcam").figures
    assert {"pointing", "energy", "max_box_acc_v2"} <= boxed.keys()
    assert set() == boxed.keys() & {"part_pointing", "contrast"}
    parted = row(map_rows(evaluation(boxes=False)), "contrast").figures
    assert {"contrast"} == parted.keys()
    assert set() == parted.keys() & {"pointing", "energy", "max_box_acc_v2", "part_pointing"}


def test_figures_at_the_top_are_those_of_the_table() -> None:
    """Names of today, each with its interval; the comparison's plain values agree."""
    answers = evaluation()
    rows = map_rows(answers)
    figures, values = figures_of(answers, rows), values_of(answers, photo_measures(answers))
    assert figures["pointing_game"] == row(rows, "gradcam").figures["pointing"]
    assert figures["centred_gaussian"] == row(rows, "centred_gaussian").figures["pointing"]
    for name in ("top1", "pointing_game", "pointing_game_attention", "energy_gradcam", "contrast_score"):
        figure = figures[name]
        assert isinstance(figure, Figure)
        assert figure.value == pytest.approx(values[name]), name
    assert 0.375**2 == figures["box_area"].value  # type: ignore[union-attr]


def test_maps_are_read_both_ways() -> None:
    """Cells that look at their corners: drawn so, the maps lie half a cell to the upper left; both are compared."""
    even, placed = (map_rows(with_centres(placed=placed), looking={}) for placed in (False, True))
    assert {"gradcam_centres", "contrast_centres", "attention_centres"} <= {line.name for line in even}
    for measure in ("energy", "pointing", "max_box_acc_v2", "contrast"):
        kind = "contrast" if measure == "contrast" else "gradcam"
        side_by_side, centred = (row(even, name).figures[measure].value for name in (kind, f"{kind}_centres"))
        assert row(placed, kind).figures[measure].value == pytest.approx(centred)
        assert row(placed, f"{kind}_even").figures[measure].value == pytest.approx(side_by_side)
        difference = row(even, f"{kind}_centres_minus_{kind}").figures[measure]
        assert difference.value == pytest.approx(centred - side_by_side)
    assert row(even, "gradcam_centres").figures["energy"].value != row(even, "gradcam").figures["energy"].value


def test_placed_otherwise_only_when_asked() -> None:
    """Nor where nobody knows where the cells look."""
    assert not [line for line in map_rows(with_centres(placed=False)) if "centres" in line.name]
    assert not [line for line in map_rows(evaluation(), looking={}) if "centres" in line.name]


def test_maps_of_random_weights_are_placed_as_those_of_the_trained_ones() -> None:
    """The same cells have the same figures, so that the line differs by the weights alone."""
    answers = with_centres(placed=True)
    rows = map_rows(answers, further={"random_weights": answers.prediction.gradcam["last"]})
    assert (
        row(rows, "random_weights", layer="").figures["energy"] == row(rows, "gradcam", layer="last").figures["energy"]
    )


def test_sets_are_measured_where_the_file_makes_them() -> None:
    """Nine of twelve photos have their class in a set of one; a model without sets has no such figures."""
    answers = evaluation()
    assert not any(name.startswith("set") for name in figures_of(answers, []))
    figures = figures_of(replace(answers, sets=Sets(groups=(SetGroup(num_photos=30),))), [])
    coverage, size = figures["set_coverage"], figures["set_size"]
    assert isinstance(coverage, Figure)
    assert isinstance(size, Figure)
    assert (0.75, 12, 1.0) == (coverage.value, coverage.n, size.value)
