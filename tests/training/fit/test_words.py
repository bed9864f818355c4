"""What a run says before its first epoch and after its last."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from training.checkpoint import Selected
from training.data.check import examine
from training.data.samples import Dataset
from training.fit.job import Job, Parts
from training.fit.learner import Learner
from training.fit.processes import ProcessGroup
from training.fit.words import duration, expectation, introduction, kept
from training.recipe import Recipe

MakeJob = Callable[..., Job]


def test_the_introduction_counts_what_was_found(make_job: MakeJob, birds: Dataset) -> None:
    """Classes, photos of each part, damaged ones, copies, and the weights that learn."""
    job = make_job(optim__freeze_stages=1)
    dataset = replace(examine(birds, job.cache, progress=False), skipped=2)
    train = [*dataset.train[:20], dataset.train[0]]
    job = replace(job, dataset=dataset)
    cpu = torch.device("cpu")
    learner = Learner(job.recipe, 3, None, ProcessGroup(cpu))
    first, second, third = introduction(job, Parts(train, list(dataset.train[20:])), learner, cpu)
    assert f"{birds.name}: 3 classes, 21 photos to train on (4 to 9 a class), 4 held out, 6 to test" == first
    assert "damaged and left out: 2; copies of other training photos: 1" == second
    weights = list(learner.network.parameters())
    learn = sum(weight.numel() for weight in weights if weight.requires_grad)
    assert 0 < learn < sum(weight.numel() for weight in weights)
    assert third.startswith("squeezenet1_1, weights at the start: random, attention: guided; ")
    assert f"{sum(weight.numel() for weight in weights):,} weights, {learn:,} of them learn, on the CPU (" in third


def test_the_time_to_expect_warns_of_hours() -> None:
    """From the pace of a step and half of it a held-out batch."""
    (said,) = expectation(1.0, 60, 10)
    assert "about 65 s to go, measured on a few steps that change nothing" == said
    said, then = expectation(1.0, 60, 10, 6)
    assert "then 6 epochs of the readers of marks alone, which say their own time" == then
    said, warning = expectation(60.0, 60, 10)
    assert (said.partition(",")[0], warning.partition(".")[0]) == ("about 65 min to go", "warning: over an hour")


def test_times_are_for_people() -> None:
    """Seconds, minutes, hours."""
    assert ["1 s", "89 s", "2 min", "89 min", "2 h 0 min"] == [duration(s) for s in (0.1, 89, 91, 5340, 7200)]


@pytest.mark.parametrize(
    ("selection", "epoch", "held", "said"),
    [
        ("best", 2, 100, ["keeps epoch 2 of 3: the best on the 100 held-out photos, top-1 80.0% (loss 0.500); "
                          "the last has 70.0% (loss 0.900)"]),
        ("best", 3, 100, ["keeps epoch 3 of 3: the best on the 100 held-out photos, top-1 80.0% (loss 0.500)"]),
        ("last", 3, 99, ["keeps epoch 3 of 3: the last, as the recipe says (run.selection)",
                         "warning: the temperature, 1.50, stands on 99 photos: do not rely on probabilities; "
                         "--folds 5 calibrates on all training photos"]),
        ("last", 3, 0, ["keeps epoch 3 of 3: the last, because no photo is held out to choose by; not calibrated"]),
    ],
)  # fmt: skip
def test_the_kept_epoch_has_its_reason(selection: str, epoch: int, held: int, said: list[str]) -> None:
    """Which epoch, by which figure, and whether its probabilities can be relied on."""
    recipe = Recipe().with_values({"optim.epochs": 3, "run.selection": selection})
    best = Selected(recipe, ("a", "b"), {}, epoch, 1.5, {"top1": 0.8, "nll": 0.5}, {})
    assert said == kept(best, [{"held_out_top1": 0.7, "held_out_nll": 0.9}], held)
