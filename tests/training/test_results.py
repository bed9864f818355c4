"""The folder of a comparison, and several of them as one table."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from training.data.samples import Sample
from training.errors import CheckpointError
from training.predictions import PREDICTIONS, Predictions, predictions_of, read_predictions
from training.recipe import Recipe
from training.results import (
    PLAN,
    RESULT,
    agree_on_plan,
    comparisons_in,
    merge,
    merge_all,
    read_results,
    read_runs,
    run_folder,
    write_result,
)

PHOTOS = 12
Make = Callable[..., Path]


def predictions(seed: int, classes: str = "ab") -> Predictions:
    """Return made predictions of the same photos."""
    logits = np.random.default_rng(seed).normal(size=(PHOTOS, 2)).astype(np.float32)
    samples = [Sample(Path(f"{index}.jpg"), index % 2) for index in range(PHOTOS)]
    return predictions_of(logits, samples, list(classes), 1.0, Path())


@pytest.fixture
def make(tmp_path: Path, tiny: Recipe) -> Make:
    """Return a function that writes the folder of a comparison and returns it."""

    def write(
        name: str, arms: tuple[str, ...] = ("plain", "guided"), seeds: tuple[int, ...] = (0, 1), **plan: object
    ) -> Path:
        out = tmp_path / name
        out.mkdir(parents=True)
        values = {"recipe": tiny.to_dict(), "dataset": "birds", "weights": "w", "arms": list(arms)}
        for arm in arms:
            for seed in seeds:
                folder = run_folder(out, arm, seed)
                folder.mkdir(parents=True)
                found = predictions(10 * seed + len(arm))
                found.write(folder)
                result = {"arm": arm, "seed": seed, "top1": float(found.right.mean()), "predictions": found.digest}
                write_result(folder, {**result, "device": name, "seconds_of_last_piece": len(name)})
        agree_on_plan(out, {**values, **plan})
        return out

    return write


def test_folders_of_several_machines_make_one_table(make: Make) -> None:
    """Other seeds, other arms; what two folders share counts once, whatever machine and time it took."""
    folders = [make("a"), make("bb", seeds=(1, 2)), make("ccc", arms=("se", "plain"), seeds=(0,))]
    runs = merge(folders)
    expected = [("plain", 0), ("plain", 1), ("plain", 2), ("guided", 0), ("guided", 1), ("guided", 2), ("se", 0)]
    assert expected == [(result["arm"], result["seed"]) for result in runs.results]
    assert set(expected) == runs.predictions.keys()
    assert ["plain", "guided", "se"] == runs.plan["arms"]
    assert {0, 1, 2} == runs.by_photo("top1")["guided"].keys()


def test_different_results_of_one_run_are_refused(make: Make) -> None:
    """The same arm and seed trained twice, with another outcome: which one counts is not for us to say."""
    first, second = make("a"), make("b")
    folder = run_folder(second, "guided", 1)
    found = predictions(99)
    found.write(folder)
    write_result(folder, {"arm": "guided", "seed": 1, "top1": 0.5, "predictions": found.digest})
    with pytest.raises(CheckpointError, match=r"^guided, seed 1, is in .*a and in .*b with different results$"):
        merge([first, second])


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"dataset": "cars"}, r'another data set \("cars", not "birds"\)'),
        ({"weights": "v"}, r'other weights \("v", not "w"\)'),
        ({"labels": "ab"}, "another list of classes"),
        ({"photos": "ab"}, "other test photos"),
    ],
)
def test_folders_of_another_comparison_are_refused(make: Make, plan: dict[str, str], said: str) -> None:
    """In one line that names the difference."""
    with pytest.raises(CheckpointError, match=rf"^.*b cannot be merged with .*a: {said}$"):
        merge([make("a"), make("b", arms=(), **plan)])


def test_another_recipe_is_named_by_its_key(make: Make, tiny: Recipe) -> None:
    """The first value that differs, and both values."""
    other = tiny.with_values({"optim.epochs": 7}).to_dict()
    with pytest.raises(CheckpointError, match=r"another recipe \(optim\.epochs 7, not 2\)$"):
        merge([make("a"), make("b", recipe=other)])
    with pytest.raises(CheckpointError, match=r"holds a comparison with another recipe \(optim\.epochs 2, not 7\)"):
        agree_on_plan(make("c"), {"recipe": other, "dataset": "birds", "weights": "w", "arms": []})


def test_predictions_of_another_model_are_refused(make: Make) -> None:
    """A file from another run, and one of another list of classes."""
    out = make("a")
    file = run_folder(out, "plain", 0) / PREDICTIONS
    shutil.copy(run_folder(out, "guided", 1) / PREDICTIONS, file)
    with pytest.raises(CheckpointError, match=rf"seed-0/{PREDICTIONS} is of another model than {RESULT} beside it$"):
        merge([make("b"), out])
    others = predictions(0, classes="xy")
    others.write(file.parent)
    write_result(file.parent, {"arm": "plain", "seed": 0, "top1": 0.5, "predictions": others.digest})
    with pytest.raises(CheckpointError, match=r"another list of classes"):
        read_runs(out)


def test_runs_without_predictions_are_read(make: Make) -> None:
    """As an older version left them: no predictions, no digests; two equal results count once."""
    first, second = make("a", seeds=(0,)), make("b", seeds=(0,))
    for out in (first, second):
        for arm in ("plain", "guided"):
            folder = run_folder(out, arm, 0)
            (folder / PREDICTIONS).unlink()
            write_result(folder, {"arm": arm, "seed": 0, "top1": 0.5, "device": out.name})
    runs = merge([first, second])
    assert len(runs.results) == 2
    assert {} == runs.predictions
    assert read_predictions(first) is None


def test_a_folder_holds_one_comparison_or_those_of_a_grid(make: Make, tmp_path: Path) -> None:
    """Grids are merged comparison by comparison; the two kinds do not mix."""
    make("here/x"), make("here/y"), make("there/y", seeds=(2,))
    tables = merge_all([tmp_path / "here", tmp_path / "there"])
    assert {"x": 4, "y": 6} == {name: len(runs.results) for name, runs in tables.items()}
    assert {"": tmp_path / "here" / "x"} == comparisons_in(tmp_path / "here" / "x")
    with pytest.raises(CheckpointError, match="holds a grid"):
        merge_all([tmp_path / "here" / "x", tmp_path / "there"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty holds no comparison: compare\.json is missing"):
        merge_all([tmp_path / "empty"])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"recipe"'])
def test_a_damaged_plan_is_one_line(make: Make, content: str) -> None:
    """It names the file."""
    out = make("a")
    (out / PLAN).write_text(content)
    with pytest.raises(CheckpointError, match=r"compare\.json is damaged") as caught:
        read_results(out)
    assert "\n" not in str(caught.value)


def test_a_plan_learns_what_older_ones_lack(make: Make) -> None:
    """Arms are added; digests too."""
    out = make("a")
    agree_on_plan(out, {**json.loads((out / PLAN).read_text()), "labels": "x", "arms": ["se"]})
    plan = json.loads((out / PLAN).read_text())
    assert (["plain", "guided", "se"], "x") == (plan["arms"], plan["labels"])
