"""Prediction sets from the answers of folds; MAPIE's are the same."""

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.contract.graph import softmax
from model.contract.sets import SetGroup, Sets, write_missed
from training.calibration import sets as module
from training.calibration.fitted import sets_of
from training.calibration.outputs import HELD_OUT, Outputs
from training.calibration.sets import aps_scores, fit_sets, lac_scores, never_empty, raps_scores, threshold_of
from training.evaluation.sets import members_of

PEERS = Path(__file__).parents[1] / "evaluation" / "peers"


def outputs(n: int = 400, classes: int = 5, fold: int = 1, seed: int = 0) -> Outputs:
    """Return made answers of folds, most of them right; of class 0 half of all photos."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, classes, n) * (rng.random(n) > 0.5)
    logits = rng.normal(size=(n, classes)).astype(np.float32)
    logits[np.arange(n), labels] += 1.5
    text = np.array([str(number) for number in range(n)])
    folds = fold * (1 + np.arange(n) % 3)
    return Outputs(logits, np.zeros((n, 1)), np.zeros((n, 0)), labels, folds, text, text)


@pytest.fixture(scope="module")
def made() -> Any:
    """Return the module that made the values of MAPIE."""
    spec = spec_from_file_location("make_sets", PEERS / "make_sets.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.parametrize("name", ["lac", "aps", "raps"])
def test_sets_are_those_of_mapie(made: Any, name: str) -> None:
    """Of the same probabilities, photos, random numbers and settings, at every coverage; a set of none excepted."""
    values = json.loads((PEERS / "sets.json").read_text())
    p, labels = made.made_probabilities()
    settings = values["raps_settings"]
    used = np.array(settings["calibrated_on"]) if name == "raps" else np.arange(made.CALIBRATED)
    u = np.random.RandomState(made.SEED).uniform(size=len(used))
    others = p[made.CALIBRATED :]
    for place, coverage in enumerate(made.LEVELS):
        if name == "lac":
            calibrated, plain = lac_scores(p[used]), lac_scores(others)
        elif name == "aps":
            calibrated, plain = aps_scores(p[used], u), aps_scores(others)
        else:
            weight, rank = settings["weight"][place], settings["rank"][place]
            calibrated, plain = raps_scores(p[used], weight, rank, u), raps_scores(others, weight, rank)
        members = plain <= threshold_of(calibrated[np.arange(len(used)), labels[used]], coverage)
        if name != "lac":  # MAPIE adds the likeliest class to those of APS and RAPS
            members |= np.isneginf(never_empty(plain, others))
        assert values[name][str(coverage)] == (members << np.arange(made.CLASSES)).sum(axis=1).tolist()


def test_sets_are_those_of_the_compared_score() -> None:
    """Kept as few numbers, the sets are those of every photo's score."""
    rng = np.random.default_rng(0)
    p, labels = rng.dirichlet(np.full(8, 0.3), 300).astype(np.float32), rng.integers(0, 8, 300)
    labels[:200] = p[:200].argmax(axis=1)
    missed = p.argmax(axis=1) != labels
    sets = Sets(groups=(SetGroup(num_photos=300, missed=write_missed(p[np.arange(300), labels][missed])),))
    scores = never_empty(lac_scores(p), p)
    for coverage in (0.5, 0.7, 0.8, 0.9, 0.99, 0.999):
        threshold = threshold_of(scores[np.arange(300), labels], coverage)
        expected = [set(np.flatnonzero(row <= threshold).tolist()) for row in scores]
        assert expected == [set(sets.of(row.tolist(), coverage)) for row in p]


def test_the_procedure_covers_what_it_promises() -> None:
    """On other photos like those it is fitted to, the share is the one requested, over many draws."""
    covered = []
    for seed in range(100):
        known, other = outputs(seed=2 * seed), outputs(seed=2 * seed + 1)
        sets = fit_sets(known, 1.0)
        assert sets is not None
        members = members_of(sets, softmax(other.logits, 1.0), 0.9)
        covered.append(members[np.arange(len(members)), other.labels].mean())
        assert members.any(axis=1).all()
    assert np.mean(covered) == pytest.approx(0.9, abs=0.01)


def test_a_class_with_enough_photos_has_its_own_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others share one of their photos; of all photos where they are too few themselves; thirty are too few."""
    held = outputs()
    photos = np.bincount(held.labels)
    assert photos[0] >= module.ENOUGH > photos[1:].max()
    sets = fit_sets(held, 1.0)
    assert sets is not None
    own, rest = sets.groups
    assert ((0,), photos[0]) == (own.classes, own.num_photos)
    assert ((), photos[1:].sum()) == (rest.classes, rest.num_photos)
    monkeypatch.setattr(module, "ENOUGH", int(photos[1:].sum()) + 1)
    few = fit_sets(outputs(240), 1.0)
    assert few is not None
    assert [((), 240)] == [(group.classes, group.num_photos) for group in few.groups]


def test_without_folds_there_are_no_sets(tmp_path: Path) -> None:
    """The photos that a run held out chose its epoch; a run of an older version kept no answers."""
    assert fit_sets(outputs(fold=0), 1.0) is None
    assert sets_of(tmp_path, 1.0) is None
    outputs().write(tmp_path / HELD_OUT)
    assert fit_sets(outputs(), 0.7) == sets_of(tmp_path, 0.7) != sets_of(tmp_path, 1.0)
