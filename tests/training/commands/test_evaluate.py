"""The command `evaluate` whole, on a tiny run: figures, tables, provenance, files."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from training.calibration.outputs import HELD_OUT, TRAINED, Outputs
from training.checkpoint import SELECTED, load_selected
from training.commands.evaluate import Result, as_text, evaluate, write
from training.commands.question import Question
from training.data.samples import Dataset
from training.errors import DatasetError, TrainingError
from training.evaluation.figures import Figure
from training.fit.job import Job
from training.fit.loop import fit
from training.recipe import Recipe


@pytest.fixture(scope="module")
def asked(
    birds: Dataset, tiny: Recipe, cache: Path, cub_like: Path, tmp_path_factory: pytest.TempPathFactory
) -> Question:
    """Return what to evaluate: a run of one epoch, on the made birds."""
    run = tmp_path_factory.mktemp("evaluate") / "run"
    fit(Job(tiny, birds, run, None, cache, device="cpu", visible=False))
    return Question(run, tiny, birds, cub_like, "test", "cpu", 0, visible=False, commit="abc", faithfulness=2, sanity=2)


@pytest.fixture(scope="module")
def result(asked: Question) -> Result:
    """Return everything that can be measured."""
    return evaluate(asked)


def test_figures_have_intervals_in_json(asked: Question, result: Result) -> None:
    """Each is an object with value, low, high and n under its name; counts stay numbers."""
    found = json.loads(json.dumps(result.to_dict()))
    for name in ("top1", "ece", "macro_f1", "pointing_game", "centred_gaussian", "deletion_gradcam", "sanity_head"):
        assert {"value", "low", "high", "n"} == found[name].keys(), name
    assert (len(asked.dataset.test), asked.part) == (found["images"], found["part"])
    assert found["top1"]["low"] <= found["top1"]["value"] <= found["top1"]["high"]


def test_provenance_makes_the_figures_repeatable(asked: Question, result: Result) -> None:
    """The weights' hash, the commit, the day, and the versions that computed it."""
    found = result.to_dict()["provenance"]
    assert hashlib.sha256((asked.model / SELECTED).read_bytes()).hexdigest() == found["model_sha256"]
    assert ("abc", True) == (found["commit"], {"python", "torch", "numpy"} <= found["versions"].keys())


def test_maps_stand_beside_chance_and_random_weights(result: Result) -> None:
    """Every line has the same measures; BoxAcc's threshold comes from photos that were held out."""
    names = {row.name for row in result.rows if row.photos == "all"}
    assert {"gradcam", "attention", "centred_gaussian", "centre", "random", "random_weights"} <= names
    gradcam = next(row for row in result.rows if row.name == "gradcam" and row.photos == "all")
    assert {"pointing", "energy", "enrichment", "rank", "max_box_acc_v2", "box_acc"} <= gradcam.figures.keys()


def test_nothing_more_is_measured_than_asked(asked: Question) -> None:
    """Without the options no map is taken apart and no network is set back."""
    found = evaluate(replace(asked, faithfulness=0, sanity=0))
    assert not [name for name in found.figures if name.startswith(("deletion", "road", "sanity"))]
    assert "random_weights" not in {row.name for row in found.rows}


def test_what_a_run_cannot_answer_is_refused_before_the_work(asked: Question) -> None:
    """Not left out in silence: a run has no centres of cells, and this one no marks."""
    absent = replace(asked, dataset=replace(asked.dataset, test=()))
    with pytest.raises(TrainingError, match="export it"):
        evaluate(replace(absent, placings=2))
    with pytest.raises(TrainingError, match="has no marks"):
        evaluate(replace(absent, blur=2))


def test_folder_holds_tables_for_programs_and_people(result: Result, tmp_path: Path) -> None:
    """JSON with the per-class table and the confused pairs, every photo as CSV and Parquet, and the report."""
    write(result, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert result.to_dict().items() <= metrics.items()
    assert len(result.evaluation.names) == len(metrics["classes"])
    wrong = sum(pair["count"] for pair in metrics["confused"])
    assert len(result.evaluation.samples) - wrong == int(result.evaluation.right.sum())
    table = pq.read_table(tmp_path / "predictions.parquet")
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert (table.num_rows, table.num_rows + 1) == (len(result.evaluation.samples), len(lines))
    assert table["file"][0].as_py().startswith("images/")
    assert "<html" in (tmp_path / "report.html").read_text()


def test_text_shows_value_interval_and_number(result: Result) -> None:
    """A person reads the interval beside the value."""
    top1 = result.figures["top1"]
    assert isinstance(top1, Figure)
    assert f"{top1.value:.4f}  ({top1.low:.4f} … {top1.high:.4f}, n = {top1.n})" == as_text(result)["top1"]


def test_unknown_photos_stand_beside_the_known(asked: Question, tmp_path: Path) -> None:
    """A run without held-out answers has the baselines alone; with them novelty comes first, and its threshold."""
    Image.effect_noise((64, 64), 90).save(tmp_path / "noise.png")
    asked = replace(asked, faithfulness=0, sanity=0, unknown=(tmp_path,))
    (bare,) = evaluate(asked).unknown
    assert (1, ["max_probability", "max_logit"], None) == (bare.photos, [*bare.rows], bare.above)
    rng, classes = np.random.default_rng(0), len(asked.dataset.labels)
    channels, names = load_selected(asked.model).network().in_channels, np.array([str(index) for index in range(60)])
    for path in (TRAINED, HELD_OUT):
        labels = np.arange(60) % classes
        answers = rng.normal(size=(60, classes)), rng.random((60, channels)), np.zeros((60, 0))
        Outputs(*answers, labels, np.zeros(60, np.int64), names, names).write(asked.model / path)
    result = evaluate(asked)
    for path in (TRAINED, HELD_OUT):
        (asked.model / path).unlink()
    found = result.to_dict()["unknown"][0]
    assert ["novelty", "max_probability", "max_logit"] == [*found["scores"]]
    assert {"value", "low", "high", "n"} == found["scores"]["novelty"]["auroc"].keys()
    assert (1, len(asked.dataset.test)) == (found["above"]["n"], found["known_above"]["n"])
    assert f"novelty_auroc {tmp_path.name}" in as_text(result)
    with pytest.raises(DatasetError, match="is not a folder"):
        evaluate(replace(asked, unknown=(tmp_path / "absent",)))


def test_data_without_places_have_no_maps(asked: Question, birds: Dataset) -> None:
    """No boxes: no table of maps, the figures of classification stay."""
    bare = replace(birds, test=tuple(replace(sample, box=None) for sample in birds.test))
    found = evaluate(replace(asked, dataset=bare, faithfulness=0, sanity=0))
    assert found.rows == []
    assert "pointing_game" not in found.figures
    assert "top1" in found.figures


def test_empty_part_is_refused(asked: Question, birds: Dataset) -> None:
    """The message says what else there is."""
    with pytest.raises(DatasetError, match=r"no images in its test part; --part all"):
        evaluate(replace(asked, dataset=replace(birds, test=())))


def test_runs_need_no_recipe(asked: Question) -> None:
    """Where nobody knows what was held out, there is no BoxAcc, and the rest is there."""
    found = evaluate(replace(asked, recipe=None, faithfulness=0, sanity=0))
    assert not [row for row in found.rows if "box_acc" in row.figures]
    assert found.rows
