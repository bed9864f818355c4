"""The state of a run between two steps: saved into its checkpoint, and resumed from it."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.files import locked
from model.network.backbone import Weights
from training.checkpoint import LAST, SELECTED, Selected, load_selected, read, write
from training.data.marks import Marks
from training.errors import CheckpointError, Diverged
from training.fit.job import Job
from training.fit.journal import METRICS
from training.fit.learner import Learner
from training.fit.losses.objective import Losses
from training.fit.processes import ProcessGroup
from training.recipe import Recipe

ADVICE = "take another --out, or --fresh"


@dataclass
class TrainingState:
    """What changes from step to step, beside the learner.

    Attributes:
        totals: sums over the present epoch of loss, cross-entropy, guidance, marks, right predictions and images,
            (6,); on the device, because reading them at every step would block it.
        epoch: epochs done.
        batch: batches done of the present epoch.
        best: weights selected so far.
        content: bytes and class of every photo that is trained on or held out, in order, from `content_of`.
    """

    totals: Tensor
    epoch: int = 0
    batch: int = 0
    best: Selected | None = None
    content: list[str] = field(default_factory=list)

    def add(self, losses: Losses, targets: Tensor) -> None:
        """Count one batch."""
        count = len(targets)
        correct = (losses.logits.argmax(1) == targets).sum()
        parts = (losses.total.detach(), losses.cross_entropy, losses.guidance, losses.marks)
        sums = torch.stack(parts).float() * count
        self.totals += torch.cat([sums, correct[None].float(), torch.full_like(correct, count)[None].float()])

    def means(self) -> dict[str, float]:
        """Return the means over the images so far; waits for the device."""
        *sums, count = self.totals.tolist()
        names = ("loss", "cross_entropy", "guidance", "marks", "train_top1")
        return {name: value / max(count, 1.0) for name, value in zip(names, sums, strict=True)}

    def save(self, job: Job, learner: Learner, num_train: int) -> None:
        """Write the checkpoint, so that the same command continues from here.

        Raises:
            CheckpointError: it could not be written; the previous checkpoint is untouched.
        """
        values = {
            "recipe": job.recipe.to_dict(),
            "labels": list(job.dataset.labels),
            "num_train": num_train,
            "content": self.content,
            "marks": _plain(learner.marks),
            **learner.to_dict(),
            "epoch": self.epoch,
            "batch": self.batch,
            "totals": self.totals,
            "best_epoch": self.best.epoch if self.best is not None else 0,
        }
        if self.best is not None:
            write(job.out / SELECTED, self.best.to_dict())
        write(job.out / LAST, values)

    def resume(self, values: Mapping[str, Any], job: Job, learner: Learner, num_train: int) -> None:
        """Restore what `save` wrote.

        Raises:
            CheckpointError: the photos of the data set or their labels have changed.
        """
        if values["num_train"] != num_train:
            raise CheckpointError(f"{job.out} was trained on {values['num_train']} images; now there are {num_train}")
        before = values.get("content")  # older checkpoints lack it
        if before and before != self.content:
            raise CheckpointError(f"{job.out} was trained on other data: {_changes(before, self.content)}: {ADVICE}")
        if values.get("marks", "") != _plain(learner.marks):  # those of before there were marks lack it
            which = "on another table of marks" if values.get("marks") else "without marks"
            raise CheckpointError(f"{job.out} was trained {which}: {ADVICE}")
        learner.load(values)
        self.epoch, self.batch = values["epoch"], values["batch"]
        self.totals = values["totals"].to(self.totals.device)
        if len(self.totals) == 5:  # of before there were marks
            self.totals = torch.cat([self.totals[:3], self.totals.new_zeros(1), self.totals[3:]])
        if values["best_epoch"]:
            self.best = load_selected(job.out)


@contextmanager
def held_alone(out: Path, leads: bool) -> Iterator[None]:
    """Make a run's folder and keep other runs out of it; remove it again where nothing is kept in it.

    It is removed where the body raises before an epoch or a checkpoint is kept, and was not there before. That of a run
    that diverged stays: a comparison writes this result into it.

    Args:
        out: the folder.
        leads: whether this process writes into it, of those that train together.

    Raises:
        CheckpointError: another run trains in it now.
    """
    there = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(locked(out) if leads else nullcontext())
        except BlockingIOError as error:
            raise CheckpointError(f"{out}: another run trains in this folder now") from error
        try:
            yield
        except Diverged:
            raise
        except BaseException:
            kept = (path.stat().st_size for name in (LAST, METRICS) for path in out.rglob(name))
            if not there and not any(kept):
                shutil.rmtree(out, ignore_errors=True)
            raise


def starting_weights(job: Job) -> Weights:
    """Return the backbone's weights at the start: those of another run's backbone where the job names its folder.

    Raises:
        CheckpointError: the folder holds no run, or one with another backbone.
    """
    if not isinstance(job.weights, Path) or not job.weights.is_dir():
        return job.weights
    selected = load_selected(job.weights)
    theirs, ours = selected.recipe.network.backbone, job.recipe.network.backbone
    if theirs != ours:
        raise CheckpointError(f"{job.weights} holds a {theirs}, not a {ours}: take --backbone {theirs}")
    prefix = "backbone."
    return {
        name.removeprefix(prefix): tensor for name, tensor in selected.state_dict.items() if name.startswith(prefix)
    }


def read_checkpoint(job: Job, processes: ProcessGroup) -> dict[str, Any] | None:
    """Return what `TrainingState.save` wrote into the run's folder, if it is this run; None if there is none.

    Raises:
        CheckpointError: the folder holds another run; the message names the differences.
    """
    path = job.out / LAST
    if job.fresh or not path.is_file():
        processes.wait()
        return None
    values = read(path)
    processes.wait()
    # Parsed first, because an older recipe lacks the keys that were added later.
    differences = _differences(Recipe.from_dict(values["recipe"]).to_dict(), job.recipe.to_dict())
    if values["labels"] != list(job.dataset.labels):
        differences.append("other classes")
    if differences:
        raise CheckpointError(f"{job.out} holds another run ({'; '.join(differences[:4])}): {ADVICE}")
    return values


def _plain(marks: Marks | None) -> str:
    """Return names and shares of the marks as text, in which an unknown share equals another."""
    return "" if marks is None else json.dumps(marks.to_dict())


def _changes(before: list[str], now: list[str]) -> str:
    """Describe how the photos differ from those the run started with."""
    old, new = (dict(photo.rsplit(":", 1) for photo in photos) for photos in (before, now))
    relabelled = sum(old[digest] != new[digest] for digest in old.keys() & new.keys())
    gone, added = len(old.keys() - new.keys()), len(new.keys() - old.keys())
    found = {"in another class": relabelled, "gone": gone, "new": added}
    return ", ".join(f"{count} photos are {what}" for what, count in found.items() if count) or "in another order"


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, now = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            found += _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            found.append(f"{prefix}{key} was {before!r}, now {now!r}")
    return found
