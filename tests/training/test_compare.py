"""The comparison: what is run, what is resumed, and what the table says."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from training.compare import Comparison, compare, run_one
from training.errors import CheckpointError, RecipeError
from training.fit.job import Job
from training.results import read_results


@pytest.fixture
def comparison(make_job: Callable[..., Job], cub_like: Path) -> Comparison:
    """Return a comparison of two arms with two seeds, one epoch each."""
    job = make_job("comparison", optim__epochs=1)
    return Comparison(job, arms=("plain", "guided"), seeds=(0, 1), data=cub_like)


def with_job(comparison: Comparison, **changes: Any) -> Comparison:
    """Return a comparison with some fields of its job replaced."""
    return replace(comparison, job=replace(comparison.job, **changes))


def test_a_comparison_writes_its_table(comparison: Comparison) -> None:
    """All runs are done, their results lie in their folders, their checkpoints are gone."""
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


def test_a_comparison_goes_on_where_it_stopped(comparison: Comparison) -> None:
    """A call without time does nothing; later calls leave finished runs alone and add new arms."""
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
def test_runs_go_side_by_side(comparison: Comparison) -> None:
    """Several processes, each with a run of its own, fill one table."""
    assert compare(replace(comparison, seeds=(0,), processes=2))
    assert [result["arm"] for result in read_results(comparison.job.out)] == ["plain", "guided"]


def test_another_recipe_needs_another_folder(comparison: Comparison) -> None:
    """A folder holds one recipe: means over two would be of nothing."""
    compare(with_job(comparison, time_budget_s=0.0))
    other = comparison.job.recipe.with_values({"optim.lr_new": 0.5})
    with pytest.raises(CheckpointError, match="another recipe"):
        compare(with_job(comparison, recipe=other))


def test_an_unknown_arm_is_refused_before_anything_runs(comparison: Comparison) -> None:
    """The message lists the arms there are."""
    with pytest.raises(RecipeError, match="guided-shuffled"):
        compare(replace(comparison, arms=("plain", "gided")))
    assert not (comparison.job.out / "plain").exists()


def test_a_diverged_run_stands_in_the_table(comparison: Comparison) -> None:
    """One arm without numbers does not cost the others theirs."""
    wild = comparison.job.recipe.with_values(
        {"optim.lr_new": 1e30, "optim.lr_backbone": 1e30, "optim.warmup_epochs": 0}
    )
    assert compare(replace(with_job(comparison, recipe=wild), arms=("plain",), seeds=(0,)))
    assert "diverged" in read_results(comparison.job.out)[0]
    assert "loss is" in (comparison.job.out / "table.md").read_text()
