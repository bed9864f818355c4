"""The comparison's table: what it shows, and what it says of it."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from training.pairs import differences
from training.predictions import Predictions, digest_of
from training.recipe import Recipe
from training.results import Result, Runs
from training.table import conclusion, markdown, pairs_of, results_csv, top1_of, write_tables

TABLE = {"plain": {0: 0.80, 1: 0.82, 2: 0.81}, "guided": {0: 0.83, 1: 0.85, 2: 0.845}, "se": {0: 0.80, 2: 0.83}}
PHOTOS = 200


def results_of(table: dict[str, dict[int, float]]) -> list[Result]:
    """Return results with a top-1 each."""
    return [{"arm": arm, "seed": seed, "top1": value} for arm, runs in table.items() for seed, value in runs.items()]


def predictions_of_share(share: float) -> Predictions:
    """Return predictions of two classes, of which the first photos are right."""
    labels = np.zeros(PHOTOS, np.int32)
    logits = np.zeros((PHOTOS, 2), np.float16)
    logits[round(share * PHOTOS) :, 1] = 1
    photos = tuple(f"{index}.jpg" for index in range(PHOTOS))
    return Predictions(logits, labels, photos, digest_of(["a", "b"]), 1.0)


@pytest.fixture
def runs(tiny: Recipe) -> Runs:
    """Return runs without predictions, as older versions left them."""
    table = {**TABLE, "guided-uniform": {0: 0.83, 1: 0.84, 2: 0.85}}
    return Runs({"recipe": tiny.to_dict(), "dataset": "birds", "arms": list(table)}, results_of(table))


@pytest.fixture
def predicted(runs: Runs) -> Runs:
    """Return the same runs with predictions."""
    known = {(one["arm"], one["seed"]): predictions_of_share(one["top1"]) for one in runs.results}
    return Runs(runs.plan, runs.results, known)


def test_the_conclusion_names_every_arm() -> None:
    """Each arm gets its sentence."""
    text = conclusion(differences(TABLE, {}))
    assert "guided − plain: +3.17 points; the interval excludes zero." in text
    assert "se − plain: +1.00 points; the interval contains zero, so no difference is shown." in text
    assert "There is no arm beside plain to compare." == conclusion([])
    assert "one seed, which shows nothing" in conclusion(differences({"plain": {0: 0.5}, "se": {0: 0.6}}, {}))


def test_the_table_sets_every_arm_against_plain_and_the_controls(runs: Runs) -> None:
    """Without predictions the pairs are by seed, and the table says so."""
    text = markdown(runs, pairs_of(runs))
    assert "| plain | 3 | 81.0 ± 1.0 | 78.5 … 83.5 |" in text
    row = (
        "| guided | − guided-uniform | 3 | +0.17 | -1.73 … +2.06 | 1.90 | contains zero: no difference shown | – | – |"
    )
    assert row in text
    assert "pointing" not in text
    assert "11 of 11 runs have no `predictions.npz`" in text
    assert "guided − guided-uniform: +0.17 points; the interval contains zero" in text


def test_with_predictions_the_intervals_are_over_photos_too(runs: Runs, predicted: Runs) -> None:
    """Wider for one arm, because other photos are other questions; McNemar's p and the seeds needed are beside it."""
    text = markdown(predicted, pairs_of(predicted))
    assert "no `predictions.npz`" not in text
    assert "McNemar's exact test counts each photo once" in text
    alone, both = top1_of(runs)["plain"], top1_of(predicted)["plain"]
    assert both.value == pytest.approx(alone.value)
    assert both.high - both.low > 2 * (alone.high - alone.low)
    pair = next(one for one in pairs_of(predicted) if one.arm == "guided")
    assert (pair.against, pair.seeds, pair.photos, pair.won, pair.lost) == ("plain", 3, PHOTOS, 19, 0)
    assert (round(pair.p, 3), pair.seeds_for_aim) == (0.002, None)
    assert "| 0.002 | more photos |" in text


def test_where_the_maps_point_is_compared_too(runs: Runs) -> None:
    """In a table of its own: arms against plain, the guidance against its controls."""
    results = [{**one, "contrast_score": 0.1 + 0.01 * one["seed"] + (one["arm"] == "guided")} for one in runs.results]
    text = markdown(Runs(runs.plan, results), pairs_of(Runs(runs.plan, results)))
    assert "| guided | − plain | contrast score | 3 | – | +100.00 | +100.00 … +100.00 | better |" in text
    assert "| guided | − guided-uniform | contrast score |" in text
    assert "| se | − guided-uniform | contrast score |" not in text
    assert "contrast score × 100 |" in text


def test_figures_with_intervals_have_columns_of_their_own(runs: Runs) -> None:
    """One line a run; a figure's ends and number have columns, and it is averaged like a bare number."""
    figure = {"value": 0.8, "low": 0.7, "high": 0.9, "n": 200}
    (row,) = csv.DictReader(io.StringIO(results_csv([{"arm": "plain", "seed": 0, "top1": figure, "list": [1, 2]}])))
    assert {"arm": "plain", "top1": "0.8", "top1_low": "0.7", "top1_n": "200", "list": "1 2"}.items() <= row.items()
    assert len(results_csv(runs.results).splitlines()) == 1 + len(runs.results)
    with_ends = [{**one, "top1": {"value": one["top1"], "low": 0, "high": 1, "n": 9}} for one in runs.results]
    assert pairs_of(runs) == pairs_of(Runs(runs.plan, with_ends))


def test_tables_are_written(predicted: Runs, tmp_path: Path) -> None:
    """Text, figures of runs, differences, and a picture."""
    diverged = {"arm": "mixed", "seed": 0, "diverged": "the loss is nan in epoch 1"}
    write_tables(Runs(predicted.plan, [*predicted.results, diverged], predicted.predictions), tmp_path)
    names = {"table.md", "table.csv", "pairs.csv", "table.png", "table.json"}
    assert names == {path.name for path in tmp_path.iterdir()}
    contents = json.loads((tmp_path / "table.json").read_text(), parse_constant=pytest.fail)  # no NaN in JSON
    assert {"results", "top1", "pairs"} == contents.keys()
    assert "seed and photo" == contents["pairs"][0]["paired_by"]
    assert "mixed, seed 0: the loss is nan in epoch 1" in (tmp_path / "table.md").read_text()
    assert "difference_low" in (tmp_path / "pairs.csv").read_text()
