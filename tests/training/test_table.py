"""The comparison's table: differences, verdicts and conclusion."""

import math

import pytest

from training.recipe import Recipe
from training.table import Difference, conclusion, markdown, paired_difference, results_csv

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
def test_the_verdict_follows_the_interval(low: float, high: float, pairs: int, expected: str) -> None:
    """An interval that contains zero shows nothing."""
    assert expected == Difference("guided", "plain", pairs, (low + high) / 2, low, high).verdict()


def test_the_conclusion_names_every_arm() -> None:
    """Each arm gets its sentence."""
    text = conclusion(TABLE)
    assert "guided − plain: +3.17 points; the interval excludes zero." in text
    assert "se − plain: +1.00 points; the interval contains zero, so no difference is shown." in text


def test_the_table_sets_the_guidance_against_its_controls(tiny: Recipe) -> None:
    """Controls are in the same table, and the guided arm is compared with them directly."""
    table = {**TABLE, "guided-uniform": {0: 0.83, 1: 0.84, 2: 0.85}}
    results = [{"arm": arm, "seed": seed, "top1": v} for arm, runs in table.items() for seed, v in runs.items()]
    text = markdown(results, {"recipe": tiny.to_dict(), "dataset": "birds", "arms": list(table)})
    assert "| plain | 3 | 81.0 ± 1.0 |" in text
    assert "| guided-uniform | 3 | +0.17 | -1.73 … +2.06 | contains zero: no difference shown |" in text
    assert len(results_csv(results).splitlines()) == 1 + len(results)
