"""The loop: it learns, stops, resumes exactly, and never loses a good checkpoint."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.checkpoint import LAST, SELECTED, load_selected, read, write
from training.data.marks import Mark, Marks
from training.data.prepared import PARITY_IMAGES
from training.errors import CheckpointError, DatasetError, Diverged
from training.fit.job import Job
from training.fit.journal import CURVES, METRICS, read_metrics
from training.fit.learner import Learner
from training.fit.loop import fit
from training.fit.processes import ProcessGroup
from training.fit.state import TrainingState, held_alone

MakeJob = Callable[..., Job]


def weights(job: Job) -> dict[str, torch.Tensor]:
    """Return the last weights of a run."""
    state: dict[str, torch.Tensor] = read(job.out / LAST)["state_dict"]
    return state


def assert_same_weights(one: Job, other: Job) -> None:
    """Compare two runs bit for bit."""
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_a_run_learns_and_leaves_everything_an_export_needs(make_job: MakeJob) -> None:
    """It distinguishes colours after a few epochs; journal, curves, checkpoint and parity images exist."""
    job = make_job(optim__epochs=8, guidance__weight=0.1)
    outcome = fit(job)
    records = read_metrics(job.out)
    assert outcome.finished
    assert [record["epoch"] for record in records] == list(range(1, 9))
    assert records[-1]["loss"] < records[0]["loss"]
    assert outcome.metrics["top1"] == max(record["held_out_top1"] for record in records)
    assert {LAST, SELECTED, CURVES, METRICS, PARITY_IMAGES} <= {path.name for path in job.out.iterdir()}
    selected = load_selected(job.out)
    assert selected.labels == ("Red Bird", "Green Bird", "Blue Bird")
    assert selected.recipe == job.recipe
    assert selected.facts["num_train"] == 18


@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_stopped_run_resumes_exactly(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, stop_after: int) -> None:
    """Stopped within any epoch and resumed, a run ends with the same bits as one that was never stopped.

    Everything with a state is on: momentum, averaged weights, accumulation, dropout, mixup.
    """
    settings = {
        "run__ema_decay": 0.9,
        "optim__accumulate": 1 + stop_after % 2,
        "optim__batch_size": 4,
        "augment__mixup": 0.2,
    }
    whole = make_job("whole", **settings)
    fit(whole)
    pieces = make_job("pieces", **settings)
    with monkeypatch.context() as patch:
        calls = 0

        def wanted(_: object) -> bool:
            nonlocal calls
            calls += 1
            return calls >= stop_after

        patch.setattr("training.fit.processes.StopRequest.wanted", wanted)
        assert not fit(pieces).finished
    assert read(pieces.out / LAST)["batch"] > 0
    assert fit(pieces).finished
    assert_same_weights(whole, pieces)
    assert {**read_metrics(whole.out)[-1], "seconds": 0, "images_per_s": 0} == {
        **read_metrics(pieces.out)[-1],
        "seconds": 0,
        "images_per_s": 0,
    }


def test_the_number_of_workers_changes_nothing(make_job: MakeJob) -> None:
    """The variation of an image depends on seed, epoch and index, not on the worker."""
    alone, helped = make_job("alone", optim__epochs=1), make_job("helped", optim__epochs=1, workers=2)
    fit(alone)
    fit(helped)
    assert_same_weights(alone, helped)


def test_seeds_differ(make_job: MakeJob) -> None:
    """Another seed gives other weights, the same seed the same."""
    one, same, other = make_job("one"), make_job("same"), make_job("other", seed=1)
    for job in (one, same, other):
        fit(job)
    assert_same_weights(one, same)
    assert not torch.equal(weights(one)["head.1.weight"], weights(other)["head.1.weight"])


def test_two_runs_do_not_share_a_folder(make_job: MakeJob) -> None:
    """The second one is refused, and takes nothing away; when the first has ended it may go on."""
    job = make_job(optim__epochs=1, workers=1)
    with held_alone(job.out, leads=True), pytest.raises(CheckpointError, match="another run trains in this folder now"):
        fit(job)
    assert job.out.is_dir()
    assert fit(job).finished
    assert fit(job).finished


def test_a_finished_run_is_left_alone(make_job: MakeJob) -> None:
    """The same command again trains nothing; `fresh` starts over."""
    job = make_job(optim__epochs=1)
    fit(job)
    before = (job.out / SELECTED).read_bytes()
    assert fit(job).finished
    assert (job.out / SELECTED).read_bytes() == before
    assert fit(replace(job, fresh=True)).finished
    assert len(read_metrics(job.out)) == 1


def test_another_recipe_is_not_continued(make_job: MakeJob) -> None:
    """The message names the difference."""
    fit(make_job(optim__epochs=1))
    with pytest.raises(CheckpointError, match=r"optim.lr_new was 0.02, now 0.5"):
        fit(make_job(optim__epochs=1, optim__lr_new=0.5))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names epoch and step; the previous checkpoint stays."""
    job = make_job(optim__epochs=3)
    monkeypatch.setattr("training.fit.loop.SAVE_EVERY_S", 0.0)
    monkeypatch.setattr("training.fit.learner.learning_rate_factor", lambda _, position: 1e30 if position >= 1 else 0.1)
    with pytest.raises(Diverged, match=r"epoch 2, step \d"):
        fit(job)
    assert read(job.out / LAST)["epoch"] == 1
    assert all(bool(tensor.isfinite().all()) for tensor in load_selected(job.out).state_dict.values())


def test_selection_without_a_held_out_part_takes_the_last_epoch(make_job: MakeJob) -> None:
    """All training images are trained on, nothing is measured, the temperature stays 1."""
    job = make_job(data__held_out=0.0, run__selection="last")
    assert fit(job).metrics == {}
    selected = load_selected(job.out)
    assert (selected.epoch, selected.temperature, selected.facts["num_train"]) == (2, 1.0, 24)


def test_frozen_stages_do_not_move(make_job: MakeJob) -> None:
    """The early part keeps its weights and its running statistics."""
    job = make_job(network__backbone="mobilenet_v2", optim__freeze_stages=2, optim__epochs=1)
    fit(job)
    torch.manual_seed(job.recipe.seed)
    start = job_network(job)
    end = weights(job)
    assert all(torch.equal(end[name], start[name]) for name in start if name.startswith("backbone.features.1."))
    assert not torch.equal(end["backbone.features.18.0.weight"], start["backbone.features.18.0.weight"])


def test_a_run_on_cached_features_resumes(make_job: MakeJob) -> None:
    """Features replace images in training and evaluation, also when the run is resumed."""
    settings = {"optim__freeze_stages": 2, "data__cached_views": 2}
    first = make_job(**settings, time_budget_s=0.0)
    assert not fit(first).finished
    assert fit(replace(first, time_budget_s=None)).metrics["images"] == 6


def job_network(job: Job) -> dict[str, torch.Tensor]:
    """Return the weights a job starts from."""
    from model.network.network import build_network
    from training.checkpoint import network_config

    return build_network(network_config(job.recipe, job.dataset.num_classes), None).state_dict()


def test_a_damaged_photo_is_named(make_job: MakeJob, cub_like: Path, tmp_path: Path) -> None:
    """A truncated file stops the run before training; the message names its path."""
    whole = next(iter((cub_like / "images").rglob("*.png")))
    broken = tmp_path / "broken.png"
    broken.write_bytes(whole.read_bytes()[:2000])
    job = make_job()
    dataset = job.dataset
    samples = tuple(replace(s, path=broken) if n in (0, 9) else s for n, s in enumerate(dataset.train))
    with pytest.raises(DatasetError, match=r"broken\.png is damaged"):
        fit(replace(job, dataset=replace(dataset, train=samples)))


def test_a_run_resumes_only_with_the_same_photos(make_job: MakeJob, cub_like: Path, tmp_path: Path) -> None:
    """By content: swapped between classes, replaced under the old name, or reordered; renaming is allowed."""
    job = make_job(time_budget_s=0.0)
    assert not fit(job).finished
    one, *rest = job.dataset.train
    two = next(sample for sample in rest if sample.label != one.label)

    def changed(**paths: Path) -> Job:
        replaced = {one.path: paths.get("one", one.path), two.path: paths.get("two", two.path)}
        samples = tuple(replace(sample, path=replaced.get(sample.path, sample.path)) for sample in job.dataset.train)
        return replace(job, dataset=replace(job.dataset, train=samples))

    renamed, other = tmp_path / "renamed.png", tmp_path / "other.png"
    shutil.copy(one.path, renamed)
    shutil.copy(next((cub_like / "images" / "002.Green_Bird").glob("9.png")), other)
    for changes, message in (
        ({"one": two.path, "two": one.path}, "2 photos are in another class"),
        ({"one": other}, "1 photos are gone, 1 photos are new"),
    ):
        with pytest.raises(CheckpointError, match=rf"other data: {message}: take another --out, or --fresh"):
            fit(changed(**changes))
    assert not fit(changed(one=renamed)).finished
    values = read(job.out / LAST)
    del values["content"]
    write(job.out / LAST, values)
    assert not fit(changed(one=two.path, two=one.path)).finished, "an older checkpoint has no content, and resumes"
    assert "content" in read(job.out / LAST)


def test_a_run_resumes_only_with_the_same_marks(make_job: MakeJob) -> None:
    """Another share is another table; an unknown share is the same unknown share."""
    job, mark = make_job(), Mark("red crown", "crown", "red", "crown: red")
    job.out.mkdir()

    def learner(*shares: float) -> Learner:
        marks = Marks((mark,), np.array(shares)[:, None]) if shares else None
        return Learner(job.recipe, 3, None, ProcessGroup(torch.device("cpu")), marks)

    state = TrainingState(torch.zeros(5))
    state.save(job, learner(0.5, float("nan"), 1), 18)
    state.resume(read(job.out / LAST), job, learner(0.5, float("nan"), 1), 18)
    for other in (learner(0.5, 0, 1), learner()):
        with pytest.raises(CheckpointError, match="trained on another table of marks: take another --out, or --fresh"):
            state.resume(read(job.out / LAST), job, other, 18)
    older = read(job.out / LAST)
    del older["marks"]
    with pytest.raises(CheckpointError, match="trained without marks: take another --out, or --fresh"):
        state.resume(older, job, learner(0.5, 0, 1), 18)


def test_provenance_records_photos_that_were_left_out(make_job: MakeJob) -> None:
    """From the run's facts into the exported file; a run that left nothing out records nothing."""
    from training.commands.export import manifest_of

    job = make_job(optim__epochs=1)
    fit(job)
    assert "skipped_damaged" not in manifest_of(load_selected(job.out), "x").provenance.recipe
    fit(replace(job, fresh=True, dataset=replace(job.dataset, skipped=3)))
    assert manifest_of(load_selected(job.out), "x").provenance.recipe["skipped_damaged"] == 3


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    """The write fails with a message; the old file is intact, and no partial file remains."""
    path = tmp_path / "checkpoint.pt"
    write(path, {"epoch": 1})
    program = textwrap.dedent("""
        import resource, signal, sys, torch
        from pathlib import Path
        from training.checkpoint import write
        from training.errors import CheckpointError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            write(Path(sys.argv[1]), {"epoch": 2, "weights": torch.zeros(100_000)})
        except CheckpointError as error:
            print(error)
        """)
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert "untouched" in done.stdout
    assert read(path)["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_ctrl_c_stops_cleanly_and_the_same_command_resumes(tiny_options: list[str], tmp_path: Path) -> None:
    """An interrupted command exits with 130 and leaves a checkpoint."""
    options = ["fit", *tiny_options, "--out", str(tmp_path / "run"), "--epochs=400"]
    command = [sys.executable, "-m", "training.cli", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 1/"):
            process.send_signal(signal.SIGINT)
            break
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert "stopping after this step; all of it is kept" in rest
    assert "the same command resumes" in rest
    assert 1 <= read(tmp_path / "run" / LAST)["epoch"] < 400


@pytest.mark.slow
def test_two_processes_train_as_one(tiny_options: list[str], tmp_path: Path) -> None:
    """`torchrun` with two gloo processes: each takes half of every batch, one writes, both end with one network."""
    command = ["-m", "training.cli", "fit", *tiny_options, "--out", str(tmp_path / "run"), "--json"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, *command], capture_output=True, text=True, check=False, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    records = read_metrics(tmp_path / "run")
    assert [record["epoch"] for record in records] == [1, 2]
    assert load_selected(tmp_path / "run").epoch in (1, 2)
    assert done.stdout.count('"finished": true') == 1
