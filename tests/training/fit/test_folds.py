"""Folds: every photo is held out once, a stopped command goes on, calibration comes from the folds."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.calibration.outputs import HELD_OUT, TRAINED, Outputs
from training.checkpoint import LAST, load_selected, read
from training.data.samples import Dataset, Sample
from training.errors import CheckpointError, DatasetError
from training.evaluation.scores import fit_temperature
from training.fit.folds import FOLDS, divide, fit_folds
from training.fit.job import Job
from training.fit.journal import read_metrics
from training.fit.loop import fit

MakeJob = Callable[..., Job]


def samples_of(*counts: int) -> list[Sample]:
    """Return so many photos of each class, each with bytes of its own."""
    return [
        Sample(Path(f"{label}/{n}.png"), label, digest=f"{label}-{n}")
        for label, many in enumerate(counts)
        for n in range(many)
    ]


@pytest.mark.parametrize(("counts", "folds"), [((10, 10, 10), 5), ((2, 3, 9, 4), 3), ((2, 2), 4)])
def test_every_photo_is_held_out_once(counts: tuple[int, ...], folds: int) -> None:
    """Classes are spread evenly, folds are of one size, and every class is trained on in every fold."""
    samples = samples_of(*counts)
    parts = divide(samples, folds, 0, "abcd")
    assert samples == sorted((sample for part in parts for sample in part.held), key=samples.index)
    assert all(sorted([*part.train, *part.held], key=samples.index) == samples for part in parts)
    sizes = [len(part.held) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    for label, many in enumerate(counts):
        held = [Counter(sample.label for sample in part.held)[label] for part in parts]
        assert max(held) - min(held) <= 1
        assert max(held) < many


def test_the_division_is_of_the_seed() -> None:
    """The same seed divides alike, another does not."""
    samples = samples_of(10, 10)
    assert divide(samples, 5, 0, "ab") == divide(samples, 5, 0, "ab")
    assert divide(samples, 5, 0, "ab") != divide(samples, 5, 1, "ab")


def test_copies_of_a_photo_are_in_one_fold() -> None:
    """A network that was trained on a copy has seen the photo."""
    samples = samples_of(4, 4)
    samples += [replace(sample, path=Path("copies") / sample.path) for sample in samples[:6]]
    for part in divide(samples, 2, 0, "ab"):
        assert not {sample.digest for sample in part.held} & {sample.digest for sample in part.train}


def test_too_few_photos_are_refused() -> None:
    """A class of one photo cannot be both trained on and held out; a copy is no second photo."""
    with pytest.raises(DatasetError, match="at least two different photos of a class; 1 classes have one: b"):
        divide([*samples_of(3, 1), replace(samples_of(3, 1)[3], path=Path("copy.png"))], 2, 0, "ab")
    with pytest.raises(DatasetError, match="4 photos cannot be divided into 5 folds"):
        divide(samples_of(2, 2), 5, 0, "ab")


def test_a_stopped_command_goes_on_and_ends_alike(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped within a fold, between two, and in the last fit: same answers and weights as without a stop."""
    whole, pieces = make_job("whole"), make_job("pieces")
    fit_folds(whole, 2)
    steps, stopped = 2, []
    while True:
        calls = 0

        def wanted(_: object) -> bool:
            nonlocal calls
            calls += 1
            return calls > steps

        with monkeypatch.context() as patch:
            patch.setattr("training.fit.processes.StopRequest.wanted", wanted)
            outcome = fit_folds(pieces, 2)
        if outcome.finished:
            break
        stopped.append((outcome.fold, outcome.epoch))
    assert {0, 1, 2} == {fold for fold, _ in stopped}
    one, other = (Outputs.read(job.out / HELD_OUT) for job in (whole, pieces))
    assert one is not None
    assert other is not None
    for name in vars(one):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    left, right = (read(job.out / LAST)["state_dict"] for job in (whole, pieces))
    assert [name for name in left if not left[name].equal(right[name])] == []


def test_a_run_with_folds_is_measured_and_calibrated_by_them(make_job: MakeJob, birds: Dataset) -> None:
    """The last network knows all photos; figures and temperature are of answers of networks that did not."""
    job = make_job(optim__epochs=6, guidance__weight=0.1, keep_outputs=True)
    outcome = fit_folds(job, 3)
    selected, held = load_selected(job.out), Outputs.read(job.out / HELD_OUT)
    assert held is not None
    assert len(birds.train) == selected.facts["num_train"] == len(held.labels) == len(set(held.path.tolist()))
    assert [8, 8, 8] == [int((held.fold == fold).sum()) for fold in (1, 2, 3)]
    assert {(str(sample.path), sample.label) for sample in birds.train} == set(
        zip(held.path.tolist(), held.labels.tolist(), strict=True)
    )
    right = (held.logits.argmax(1) == held.labels).mean()
    assert right == selected.metrics["top1"] == outcome.metrics["top1"] == selected.facts["folds"]["top1"]["value"]
    assert 0 < selected.facts["folds"]["top1"]["low"] < right
    assert 24 == selected.facts["folds"]["top1"]["n"]
    assert selected.temperature == fit_temperature(held.logits, held.labels)
    # Each fold's own epochs are held out too, and its last one is what answers.
    for number in (1, 2, 3):
        records = read_metrics(job.out / FOLDS / str(number))
        assert [1, 2, 3, 4, 5, 6] == [record["epoch"] for record in records]
        hits = held.logits.argmax(1)[held.fold == number] == held.labels[held.fold == number]
        assert records[-1]["held_out_top1"] == hits.mean()
    trained = Outputs.read(job.out / TRAINED)
    assert trained is not None
    assert (24, selected.network().in_channels) == trained.pooled.shape
    assert not trained.fold.any()
    before = (job.out / "best.pt").read_bytes()
    assert fit_folds(job, 3) == outcome
    assert (job.out / "best.pt").read_bytes() == before


def test_another_run_is_refused_before_the_folds(make_job: MakeJob) -> None:
    """By another number of folds, by another recipe, or without folds; `fresh` starts over."""
    job = make_job(optim__epochs=1)
    fit_folds(job, 2)
    with pytest.raises(CheckpointError, match="1 holds out other photos, or the number of folds was another"):
        fit_folds(job, 3)
    with pytest.raises(CheckpointError, match=r"optim\.lr_new was"):
        fit_folds(make_job(optim__epochs=1, optim__lr_new=0.5), 2)
    with pytest.raises(CheckpointError, match=r"data\.held_out was 0\.0, now 0\.25"):
        fit(job)
    assert fit_folds(replace(job, fresh=True), 3).finished
    held = Outputs.read(job.out / HELD_OUT)
    assert held is not None
    assert {1, 2, 3} == set(held.fold.tolist())


def test_a_plain_run_keeps_the_answers_of_the_selected_weights(make_job: MakeJob) -> None:
    """Those for held-out photos give the temperature that the run fitted."""
    job = make_job(optim__epochs=4, optim__lr_new=0.2, keep_outputs=True)
    fit(job)
    selected, held = load_selected(job.out), Outputs.read(job.out / HELD_OUT)
    assert held is not None
    assert selected.metrics["images"] == len(held.labels)
    assert selected.temperature == pytest.approx(fit_temperature(held.logits, held.labels))
    assert (job.out / TRAINED).is_file()


def test_a_run_on_cached_features_has_folds(make_job: MakeJob, cache: Path) -> None:
    """All folds share one file of features and one of photos."""
    before = set(cache.iterdir())
    job = make_job(optim__freeze_until="features.7", data__cached_views=2, data__input_size=40, data__resize_size=44)
    outcome = fit_folds(job, 2)
    assert outcome.finished
    new = [path.name for path in set(cache.iterdir()) - before if not path.name.startswith("checked")]
    assert 2 == sum(name.endswith(".features.npy") for name in new)
    assert 2 == sum(name.endswith(".bytes") for name in new)
