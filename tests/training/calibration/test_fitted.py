"""From a run to what its export adds: marks calibrated on held-out answers, an embedding of training photos."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit

from model.contract.marks import read_table
from model.explain.fitted import NOTHING
from training.calibration import individual
from training.calibration.fitted import fitted_to
from training.calibration.outputs import HELD_OUT, TRAINED, Outputs
from training.checkpoint import SELECTED, load_selected, write
from training.commands.export import load_source
from training.data.batches import EpochOrder
from training.data.marks import Mark, Marks
from training.errors import CheckpointError
from training.fit.job import Job
from training.fit.learner import Learner
from training.fit.loaders import Parts, open_loaders, served_batches
from training.fit.outputs import outputs_of
from training.fit.processes import ProcessGroup
from training.fit.selection import measure

MakeJob = Callable[..., Job]
ALONE = ProcessGroup(torch.device("cpu"))


@pytest.fixture
def marks() -> Marks:
    """Return four marks of three classes, a share unknown."""
    names = ("crown: red", "crown: dark blue", "wing: red", "tail: forked")
    split = [name.split(": ") for name in names]
    table = np.array([[0.9, 0, 0.75, 0.2], [0, 0.1, 0, 0.3], [0.05, 1, np.nan, 0.25]])
    return Marks(
        tuple(Mark(f"{value} {part}", part, value, name) for name, (part, value) in zip(names, split, strict=True)),
        table,
    )


def test_a_run_with_marks_is_ready_for_its_export(
    make_job: MakeJob, marks: Marks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, table, calibration and axes reach the exporter; a checkpoint keeps the marks."""
    monkeypatch.setattr(individual, "FEWEST_GROUPS", 1)
    job = make_job()
    parts = Parts(list(job.dataset.train[:16]), list(job.dataset.train[16:]))
    learner = Learner(job.recipe, 3, None, ALONE, marks)
    job.out.mkdir()
    loaders = open_loaders(job, parts, EpochOrder(16, 0, 4), learner, ALONE)
    write(job.out / SELECTED, measure(job, parts, learner, loaders, 1).to_dict())
    held = outputs_of(learner, loaders.held, parts.held)
    held.write(job.out / HELD_OUT)
    outputs_of(learner, served_batches(job, parts.train, learner, ALONE), parts.train).write(job.out / TRAINED)

    selected = load_selected(job.out)
    assert selected.marks is not None
    assert marks.marks == selected.marks.marks
    np.testing.assert_array_equal(marks.table, selected.marks.table)
    source = load_source(job.out)
    listed = source.manifest.marks
    others = load_source(job.out, mark_maps="contributions").manifest.marks
    assert others is not None
    assert listed is not None
    assert ("weights", "contributions") == (listed.maps, others.maps)
    assert [(mark.name, mark.part, mark.source) for mark in marks.marks] == [
        (mark.name, mark.part, mark.source) for mark in listed.marks
    ]
    np.testing.assert_allclose(read_table(listed.table, 3, 4), marks.table, atol=1e-3)
    assert source.network.mark_head is not None
    assert ("crown", "wing", "tail") == source.network.mark_head.parts

    shares = marks.table[held.labels]
    assert (8, 4) == held.marks.shape
    assert source.fitted.marks is not None
    calibrated = held.marks * source.fitted.marks.scale.numpy() + source.fitted.marks.shift.numpy()
    errors = [np.nanmean((expit(logits) - shares) ** 2) for logits in (calibrated, held.marks)]
    assert errors[0] < errors[1]
    assert source.fitted.embedding is not None
    assert (15, source.network.in_channels) == source.fitted.embedding.axes.shape
    assert 16 == source.fitted.embedding.num_photos
    assert source.manifest.individual is not None
    assert 8 == source.manifest.individual.num_photos


def test_without_answers_nothing_is_fitted(tmp_path: Path, marks: Marks) -> None:
    """Runs of older versions have none."""
    assert fitted_to(tmp_path, marks) == NOTHING


def test_damaged_answers_are_named(tmp_path: Path) -> None:
    """Not zip, or not of these names."""
    (tmp_path / HELD_OUT).write_bytes(b"PK not a zip")
    with pytest.raises(CheckpointError, match=r"held_out\.npz is damaged"):
        fitted_to(tmp_path)
    np.savez(tmp_path / HELD_OUT, logits=np.zeros((2, 3)))
    with pytest.raises(CheckpointError, match=r"held_out\.npz is damaged"):
        Outputs.read(tmp_path / HELD_OUT)
