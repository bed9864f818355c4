"""Coverage and size of prediction sets, beside the coverage to expect."""

import numpy as np
import pytest

from model.contract.sets import SetGroup, Sets, write_missed
from training.evaluation.figures import Figure
from training.evaluation.sets import expected_coverage, set_figures

SETS = Sets(groups=(SetGroup(num_photos=9, missed=write_missed(np.array([0.5, 0.25, 0.1]))),))


def test_figures_of_sets() -> None:
    """How many hold the class, how large they are, and both for every size."""
    p = np.array([[0.9, 0.05, 0.05], [0.6, 0.35, 0.05], [0.6, 0.35, 0.05], [0.4, 0.3, 0.3]])
    figures = set_figures(SETS, p, np.array([0, 1, 2, 2]), 0.8)
    found = {name: value.value for name, value in figures.items() if isinstance(value, Figure)}
    assert {
        "set_coverage": 0.75,
        "set_size": 2.0,
        "sets_of_1": 0.25,
        "sets_of_1_coverage": 1.0,
        "sets_of_2": 0.5,
        "sets_of_2_coverage": 0.5,
        "sets_of_3": 0.25,
        "sets_of_3_coverage": 1.0,
    } == found
    assert figures["set_coverage_expected_low"] < 0.8


def test_the_coverage_to_expect() -> None:
    """What drawing both kinds of photos anew gives; all of them where the calibration photos are too few."""
    rng = np.random.default_rng(0)
    scores = rng.random((20000, 119))
    thresholds = np.sort(scores[:, :59], axis=1)[:, 53]  # of 59 photos, 60 · 0.9 must be covered
    hits = (scores[:, 59:] <= thresholds[:, None]).mean(axis=1)
    low, high = expected_coverage(59, 60, 0.9)
    assert np.quantile(hits, [0.025, 0.975]).tolist() == pytest.approx([low, high], abs=1 / 60 + 1e-9)
    assert (1.0, 1.0) == expected_coverage(9, 60, 0.95)
