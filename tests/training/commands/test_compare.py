"""The comparison: its runs, how they are resumed, and its table."""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from training.cli import main
from training.commands.compare import Comparison, compare, gpus_of, run_one, take_gpu
from training.errors import CheckpointError, RecipeError
from training.fit import loop
from training.fit.job import Job
from training.predictions import read_predictions
from training.results import number, read_results, run_folder


@pytest.fixture
def comparison(make_job: Callable[..., Job], cub_like: Path) -> Comparison:
    """Return a comparison of two arms with two seeds, one epoch each."""
    job = make_job("comparison", optim__epochs=1)
    return Comparison(job, arms=("plain", "guided"), seeds=(0, 1), data=cub_like)


def with_job(comparison: Comparison, **changes: Any) -> Comparison:
    """Return a comparison with some fields of its job replaced."""
    return replace(comparison, job=replace(comparison.job, **changes))


def test_a_comparison_writes_its_table(comparison: Comparison) -> None:
    """All runs are done, their results are in their folders, their checkpoints are removed."""
    assert compare(comparison)
    results = read_results(comparison.job.out)
    assert [(result["arm"], result["seed"]) for result in results] == [
        ("plain", 0),
        ("plain", 1),
        ("guided", 0),
        ("guided", 1),
    ]
    assert {"top1", "ece", "pointing_game", "centred_gaussian", "held_out_top1"} <= set(results[0])
    assert {path.name for path in comparison.job.out.iterdir()} >= {"table.md", "table.csv", "table.png"}
    assert list(comparison.job.out.glob("*/*/*.pt")) == []
    for result in results:
        found = read_predictions(run_folder(comparison.job.out, result["arm"], result["seed"]))
        assert found is not None
        assert (found.digest, len(found.photos)) == (result["predictions"], 6)
        assert "images/001.Red_Bird/8.png" == found.photos[0]
        assert found.right.mean() == pytest.approx(number(result["top1"]))
        assert np.nanmean(found.measures["pointing_game"]) == pytest.approx(number(result["pointing_game"]))


def test_a_comparison_resumes_where_it_stopped(comparison: Comparison) -> None:
    """A call without time runs nothing; later calls skip finished runs and add new arms."""
    assert not compare(with_job(comparison, time_budget_s=0.0))
    assert compare(replace(comparison, seeds=(0,)))
    first = comparison.job.out / "plain" / "seed-0" / "result.json"
    written = first.stat().st_mtime_ns
    assert compare(replace(comparison, seeds=(0,), arms=("se",)))
    assert first.stat().st_mtime_ns == written
    assert [result["arm"] for result in read_results(comparison.job.out)] == ["plain", "guided", "se"]


def test_a_comparison_stops_inside_an_arm(comparison: Comparison) -> None:
    """A budget that ends within a run leaves its checkpoint, and the next call finishes it."""
    short = replace(comparison, arms=("plain",), seeds=(0,))
    assert not run_one(short, "plain", 0, ends=time.time() + 1e-3)
    assert (comparison.job.out / "plain" / "seed-0" / "checkpoint.pt").is_file()
    assert compare(short)


@pytest.mark.slow
def test_runs_can_be_parallel(comparison: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes, each with its own run and its own GPU, fill one table."""
    monkeypatch.setattr("training.commands.compare.gpus_of", lambda _: ["0", "1"])  # named: the runs take the CPU
    assert compare(replace(comparison, seeds=(0,), processes=2))
    assert [result["arm"] for result in read_results(comparison.job.out)] == ["plain", "guided"]


def test_runs_are_spread_over_the_gpus_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the names CUDA_VISIBLE_DEVICES gives them; a device named alone stays alone, the CPU has none."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert (["0", "1"], [], []) == (gpus_of("auto"), gpus_of("cpu"), gpus_of("cuda:1"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    assert ["5", "GPU-7"] == gpus_of("cuda")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert [] == gpus_of("auto")


def test_each_process_sees_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the next of those that are free; without GPUs nothing is set."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    free: SimpleQueue[str] = SimpleQueue()
    for name in ("1", "0"):
        free.put(name)
    take_gpu(free)
    assert "1" == os.environ["CUDA_VISIBLE_DEVICES"]
    take_gpu(None)
    assert "1" == os.environ["CUDA_VISIBLE_DEVICES"]


def test_machines_share_a_grid_and_their_folders_are_merged(
    tiny_options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each does its share into its own folder, in one list; together they make the table, with pairs by photo."""
    grid = tmp_path / "grid.toml"
    grid.write_text('[[run]]\nname = "tiny"\narms = ["plain", "guided"]\nseeds = [0]\nweight = 0.5\n')
    command = ["compare", *tiny_options, "--epochs=1", "--quiet", "--grid", str(grid)]
    assert main([*command, "--list", "--out", str(tmp_path / "none")]) == 0
    assert "   1  tiny  plain  seed 0\n   2  tiny  guided  seed 0\n" == capsys.readouterr().out
    assert not (tmp_path / "none").exists()
    outs = [str(tmp_path / f"machine-{index}") for index in (1, 2)]
    for index, out in enumerate(outs, 1):
        assert main([*command, f"--index={index}/2", "--jobs=auto", "--json", "--out", out]) == 0
        done = json.loads(capsys.readouterr().out)
        assert done["finished"]
        assert 1 == len(done["comparisons"]["tiny"]["results"])
    assert main(["compare", "--merge", *outs, "--out", str(tmp_path / "table"), "--json"]) == 0
    merged = json.loads(capsys.readouterr().out)["comparisons"]["tiny"]
    assert ["plain", "guided"] == [result["arm"] for result in merged["results"]]
    (pair,) = (pair for pair in merged["pairs"] if pair["metric"] == "top1")
    assert ("guided", "plain", 1, "seed and photo") == tuple(
        pair[name] for name in ("arm", "against", "seeds", "paired_by")
    )
    assert "| guided | − plain | 1 |" in (tmp_path / "table" / "tiny" / "table.md").read_text()
    assert main(["compare", "--merge", *outs, "--out", outs[0]]) == 1
    assert "holds a comparison itself: take another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--jobs=none"], "'none' is neither auto nor a number from 1"),
        (["--index=0/4"], "'0/4' is not I/N, such as 1/4 up to 4/4"),
        (["--index=5/4"], "'5/4' is not I/N"),
    ],
)
def test_what_is_no_number_of_jobs_or_machines_is_refused(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As every wrong option is."""
    with pytest.raises(SystemExit):
        main(["compare", "--out", "x", *options])
    assert said in capsys.readouterr().err


def test_a_comparison_that_is_stopped_says_so(
    tiny_options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends it as any command, not as an end of the time budget after which it should be called again."""
    finish = loop.finish_epoch

    def interrupted(*arguments: Any) -> None:
        finish(*arguments)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop, "finish_epoch", interrupted)
    command = ["compare", *tiny_options, "--arms=plain", "--seeds=0,1", "--out", str(tmp_path / "table")]
    assert main(command) == 130
    assert "stopped; the same command resumes" in capsys.readouterr().err


def test_a_comparison_needs_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Or a grid, or folders to merge."""
    assert main(["compare", "--out", str(tmp_path / "x")]) == 1
    assert "give --data DIR, --grid FILE.toml or --merge OUT" in capsys.readouterr().err


def test_another_recipe_needs_another_folder(comparison: Comparison) -> None:
    """A folder is of one recipe: means over two would be meaningless."""
    compare(with_job(comparison, time_budget_s=0.0))
    other = comparison.job.recipe.with_values({"optim.lr_new": 0.5})
    with pytest.raises(CheckpointError, match="another recipe"):
        compare(with_job(comparison, recipe=other))


def test_an_unknown_arm_is_refused_before_anything_runs(comparison: Comparison) -> None:
    """The message lists the known arms."""
    with pytest.raises(RecipeError, match="guided-shuffled"):
        compare(replace(comparison, arms=("plain", "gided")))
    assert not (comparison.job.out / "plain").exists()


def test_a_diverged_run_is_in_the_table(comparison: Comparison) -> None:
    """It does not stop the other arms."""
    wild = comparison.job.recipe.with_values(
        {"optim.lr_new": 1e30, "optim.lr_backbone": 1e30, "optim.warmup_epochs": 0}
    )
    assert compare(replace(with_job(comparison, recipe=wild), arms=("plain",), seeds=(0,)))
    assert "diverged" in read_results(comparison.job.out)[0]
    assert "loss is" in (comparison.job.out / "table.md").read_text()
