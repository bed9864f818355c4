"""The steps before the first one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.checkpoint import LAST, read
from training.fit.job import Job
from training.fit.loop import fit

MakeJob = Callable[..., Job]


def test_measuring_changes_nothing(make_job: MakeJob, capfd: pytest.CaptureFixture[str]) -> None:
    """A run that says its time before its first epoch ends with the bits of one that does not."""
    settings = {"optim__epochs": 5, "optim__accumulate": 2, "run__ema_decay": 0.9, "augment__mixup": 0.2, "workers": 1}
    silent, said = make_job("silent", **settings), make_job("said", visible=True, **settings)
    fit(silent)
    fit(said)
    lines = capfd.readouterr().err.splitlines()
    (place,) = (number for number, line in enumerate(lines) if line.startswith("about "))
    assert ", on the CPU (" in lines[place - 1]
    assert lines[place + 1].startswith("epoch 1/5, ")
    one, other = (_kept(job.out) for job in (silent, said))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def _kept(run: Path) -> dict[str, torch.Tensor]:
    saved = read(run / LAST)
    return {**saved["state_dict"], **{f"average {key}": value for key, value in saved["average"]["state"].items()}}
