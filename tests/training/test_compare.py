"""The comparison: what is run, what is resumed, and what the table says."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from training.compare import Comparison, compare, read_results, run_one
from training.data.datasets import Dataset
from training.errors import CheckpointError, RecipeError
from training.recipe import Recipe
from training.table import Difference, conclusion, markdown, paired_difference, results_csv


@pytest.fixture
def comparison(tiny: Recipe, cub_like: Path, cache: Path, tmp_path: Path) -> Comparison:
    """Return a comparison of two arms with two seeds, one epoch each."""
    return Comparison(
        recipe=tiny.with_values({"optim.epochs": 1}),
        arms=("plain", "guided"),
        seeds=(0, 1),
        data=cub_like,
        kind="auto",
        weights=None,
        out=tmp_path / "comparison",
        cache=cache,
        device="cpu",
        visible=False,
    )


def test_a_comparison_writes_its_table(comparison: Comparison) -> None:
    """All runs are done, their results lie in their folders, their checkpoints are gone."""
    assert compare(comparison)
    results = read_results(comparison.out)
    assert [(result["arm"], result["seed"]) for result in results] == [
        ("plain", 0),
        ("plain", 1),
        ("guided", 0),
        ("guided", 1),
    ]
    assert {"top1", "ece", "pointing_game", "centred_gaussian", "held_out_top1"} <= set(results[0])
    assert {path.name for path in comparison.out.iterdir()} >= {"table.md", "table.csv", "table.png"}
    assert list(comparison.out.glob("*/*/*.pt")) == []


def test_a_comparison_goes_on_where_it_stopped(comparison: Comparison) -> None:
    """A call without time does nothing; later calls leave finished runs alone and add new arms."""
    assert not compare(replace(comparison, time_budget_s=0.0))
    assert compare(replace(comparison, seeds=(0,)))
    first = comparison.out / "plain" / "seed-0" / "result.json"
    written = first.stat().st_mtime_ns
    assert compare(replace(comparison, seeds=(0,), arms=("se",)))
    assert first.stat().st_mtime_ns == written
    assert [result["arm"] for result in read_results(comparison.out)] == ["plain", "guided", "se"]


def test_a_comparison_stops_inside_an_arm(comparison: Comparison, birds: Dataset) -> None:
    """A budget that ends within a run leaves its checkpoint, and the next call finishes it."""
    short = replace(comparison, arms=("plain",), seeds=(0,))
    assert not run_one(short, birds, "plain", 0, time_budget_s=1e-9)
    assert (comparison.out / "plain" / "seed-0" / "checkpoint.pt").is_file()
    assert compare(short)


@pytest.mark.slow
def test_runs_go_side_by_side(comparison: Comparison) -> None:
    """Several processes, each with a run of its own, fill one table."""
    assert compare(replace(comparison, seeds=(0,), jobs=2))
    assert [result["arm"] for result in read_results(comparison.out)] == ["plain", "guided"]


def test_another_recipe_needs_another_folder(comparison: Comparison) -> None:
    """A folder holds one recipe: means over two would be of nothing."""
    compare(replace(comparison, time_budget_s=0.0))
    other = comparison.recipe.with_values({"optim.lr_new": 0.5})
    with pytest.raises(CheckpointError, match="another recipe"):
        compare(replace(comparison, recipe=other))


def test_an_unknown_arm_is_refused_before_anything_runs(comparison: Comparison) -> None:
    """The message lists the arms there are."""
    with pytest.raises(RecipeError, match="guided-shuffled"):
        compare(replace(comparison, arms=("plain", "gided")))
    assert not (comparison.out / "plain").exists()


def test_a_diverged_run_stands_in_the_table(comparison: Comparison) -> None:
    """One arm without numbers does not cost the others theirs."""
    wild = comparison.recipe.with_values({"optim.lr_new": 1e30, "optim.lr_backbone": 1e30, "optim.warmup_epochs": 0})
    assert compare(replace(comparison, recipe=wild, arms=("plain",), seeds=(0,)))
    assert "diverged" in read_results(comparison.out)[0]
    assert "loss is" in (comparison.out / "table.md").read_text()


TABLE = {"plain": {0: 0.80, 1: 0.82, 2: 0.81}, "guided": {0: 0.83, 1: 0.85, 2: 0.845}, "se": {0: 0.80, 2: 0.83}}


def test_differences_are_paired_by_seed() -> None:
    """Only common seeds count; the interval is Student's (checked against scipy.stats.ttest_rel)."""
    found = paired_difference(TABLE, "guided", "plain")
    assert found is not None
    assert found.mean == pytest.approx(0.031667, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((0.0244955, 0.0388378), abs=1e-6)
    other = paired_difference(TABLE, "se", "plain")
    assert other is not None
    assert other.pairs == 2


@pytest.mark.parametrize(
    ("low", "high", "pairs", "expected"),
    [
        (-0.01, 0.03, 3, "contains zero: no difference shown"),
        (0.0, 0.03, 3, "contains zero: no difference shown"),
        (0.01, 0.03, 3, "better"),
        (-0.03, -0.01, 3, "worse"),
        (math.nan, math.nan, 1, "one seed: no interval"),
    ],
)
def test_the_verdict_says_plainly_what_was_shown(low: float, high: float, pairs: int, expected: str) -> None:
    """An interval that contains zero shows nothing."""
    assert expected == Difference("guided", "plain", pairs, (low + high) / 2, low, high).verdict()


def test_the_conclusion_names_every_arm() -> None:
    """Each arm gets its sentence."""
    text = conclusion(TABLE)
    assert "guided − plain: +3.17 points; the interval excludes zero." in text
    assert "se − plain: +1.00 points; the interval contains zero, so no difference is shown." in text


def test_the_table_sets_the_guidance_against_its_controls(tiny: Recipe) -> None:
    """Controls stand in the same table, and the guided arm is compared with them directly."""
    table = {**TABLE, "guided-uniform": {0: 0.83, 1: 0.84, 2: 0.85}}
    results = [{"arm": arm, "seed": seed, "top1": v} for arm, runs in table.items() for seed, v in runs.items()]
    text = markdown(results, {"recipe": tiny.to_dict(), "dataset": "birds", "arms": list(table)})
    assert "| plain | 3 | 81.0 ± 1.0 |" in text
    assert "| guided-uniform | 3 | +0.17 | -1.73 … +2.06 | contains zero: no difference shown |" in text
    assert len(results_csv(results).splitlines()) == 1 + len(results)
    assert json.loads(json.dumps(results)) == results
