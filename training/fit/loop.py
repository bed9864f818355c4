"""The training run, top to bottom: set-up → data → model → loop → selected weights.

A run can stop after any step (Ctrl-C, a time budget, a crash) and goes on with the same command; on the CPU it then
ends with the very same weights as a run that was never stopped.
"""

import math
import time
from dataclasses import dataclass

from training.data.batches import EpochOrder
from training.data.check import content_of
from training.data.samples import hold_out
from training.errors import DatasetError, Diverged
from training.fit.job import Job, Outcome
from training.fit.journal import CURVES, Journal, Progress, Record, describe, draw_curves
from training.fit.learner import Learner
from training.fit.loaders import Loaders, Parts, open_loaders
from training.fit.optim import learning_rate_factor
from training.fit.selection import measure, select
from training.fit.standing import Standing, Totals, read_checkpoint
from training.fit.world import AGREE_EVERY, StopRequest, World, joined_world

SAVE_EVERY_S = 30.0
"""A crash costs at most so much training, in seconds, and one epoch."""


@dataclass(frozen=True)
class Run:
    """The parts of one run in one process, none of which knows another or the run.

    Attributes:
        job: what to do.
        world: this process among all.
        stop: asked after every step.
        parts: photos that are trained on, and that are held out.
        order: which photo comes when.
        learner: network, loss, optimiser.
        loaders: batches of both parts.
        standing: epoch, batch, and the weights selected so far.
        journal: the epochs so far, on disk.
        progress: the bar.
    """

    job: Job
    world: World
    stop: StopRequest
    parts: Parts
    order: EpochOrder
    learner: Learner
    loaders: Loaders
    standing: Standing
    journal: Journal
    progress: Progress


def fit(job: Job) -> Outcome:
    """Train, or go on training, until all epochs are done or somebody wants to stop.

    Raises:
        DatasetError: a photo is damaged or missing, or there is none to train on.
        CheckpointError: the folder holds another run, or a checkpoint cannot be written.
        Diverged: the loss is no longer a number.
    """
    with joined_world(job.device) as world, StopRequest(job.time_budget_s) as stop:
        return train(set_up(job, world, stop))


def set_up(job: Job, world: World, stop: StopRequest) -> Run:
    """Return a run that is ready to train, from its beginning or from where it stopped."""
    recipe, data, optim = job.recipe, job.recipe.data, job.recipe.optim
    if not job.dataset.train:
        raise DatasetError(f"{job.dataset.name}: no training images")
    job.out.mkdir(parents=True, exist_ok=True)
    saved = read_checkpoint(job, world)

    # Data: lists so far, no photo is opened.
    parts = Parts(*hold_out(job.dataset.train, data.held_out, data.held_out_seed))
    order = EpochOrder(len(parts.train), recipe.seed, optim.batch_size, world.rank, world.size)

    # Model: what a checkpoint holds takes the place of the starting weights.
    learner = Learner(recipe, job.dataset.num_classes, None if saved else job.weights, world)
    standing = Standing(Totals(world.device), content=content_of([*parts.train, *parts.held]))
    if saved:
        standing.resume(saved, job, learner, len(parts.train))

    # Photos come after the model: a frozen part turns them into features, and decoding is what takes long.
    loaders = open_loaders(job, parts, order, learner, world)

    journal = Journal(job.out, standing.epoch, write=world.leads)
    done = standing.epoch * len(order) + standing.batch
    progress = Progress(optim.epochs * len(order), done, visible=job.visible and world.leads)
    return Run(job, world, stop, parts, order, learner, loaders, standing, journal, progress)


def train(run: Run) -> Outcome:
    """Train until done or stopped; always leave a checkpoint that the next call goes on from."""
    at, epochs = run.standing, run.job.recipe.optim.epochs
    if at.epoch >= epochs:
        run.progress.close()
        return outcome(run)
    if at.epoch or at.batch:
        run.progress.say(f"going on after epoch {at.epoch}, step {at.batch}")
    run.stop.begin()
    saved_at = time.monotonic()
    try:
        while at.epoch < epochs:
            if not train_epoch(run):
                save(run)
                return outcome(run)
            due = run.world.any(time.monotonic() - saved_at > SAVE_EVERY_S)
            if due and at.epoch < epochs:
                save(run)
                saved_at = time.monotonic()
        save(run)
    finally:
        run.progress.close()
    if run.world.leads:
        draw_curves(run.journal.records, run.job.out / CURVES)
    return outcome(run)


def train_epoch(run: Run) -> bool:
    """Train one epoch, or what is left of it; return whether it was finished."""
    at, batches = run.standing, len(run.order)
    started, first = time.monotonic(), at.batch
    run.learner.network.train()
    run.order.begin(at.epoch, first)
    for inputs, targets in run.loaders.train:
        targets = targets.to(run.world.device, non_blocking=True)
        losses = run.learner.step(inputs, targets, at.epoch, at.batch, batches)
        at.totals.add(losses, targets)
        if run.world.device.type == "cpu":  # elsewhere reading the loss would make the device wait
            refuse_nan(run, float(losses.total.detach()))
        at.batch += 1
        if run.progress.step():
            show(run)
        if may_pause(run) and at.batch < batches:
            return False
    finish_epoch(run, time.monotonic() - started, at.batch - first)
    return True


def finish_epoch(run: Run, seconds: float, batches: int) -> None:
    """Measure what the epoch reached, keep its weights if they are the best, and write its line."""
    at, optim = run.standing, run.job.recipe.optim
    means = at.totals.means()
    refuse_nan(run, means["loss"])
    at.epoch, at.batch = at.epoch + 1, 0
    at.totals.sums.zero_()
    factor = learning_rate_factor(optim, at.epoch - 0.5)
    record: Record = {
        "epoch": at.epoch,
        **means,
        "lr_backbone": factor * optim.lr_backbone,
        "lr_new": factor * optim.lr_new,
        "seconds": round(seconds, 3),
        "images_per_s": round(batches * optim.batch_size / max(seconds, 1e-9), 1),
    }
    if run.world.leads:
        selected = measure(run.job, run.parts, run.learner, run.loaders, at.epoch)
        record |= {f"held_out_{name}": value for name, value in selected.metrics.items() if name != "images"}
        at.best = select(at.best, selected)
        run.progress.say(describe(record, optim.epochs))
    run.world.wait()
    run.journal.add(record)


def save(run: Run) -> None:
    """Write where the run stands; a loss that is no number never reaches the disk."""
    if run.standing.batch:
        refuse_nan(run, run.standing.totals.means()["loss"])
    if run.world.leads:
        run.standing.save(run.job, run.learner, len(run.parts.train))
    run.world.wait()


def may_pause(run: Run) -> bool:
    """Return whether to stop here: only between optimiser steps, and only if every process agrees."""
    batch, accumulate = run.standing.batch, run.job.recipe.optim.accumulate
    if batch % accumulate:
        return False
    if run.world.size > 1 and batch % (AGREE_EVERY * accumulate):
        return False
    return run.world.any(run.stop.wanted())


def show(run: Run) -> None:
    """Set the words beside the bar."""
    means = run.standing.totals.means()
    refuse_nan(run, means["loss"])
    run.progress.show(run.standing.epoch, run.job.recipe.optim.epochs, means["loss"], means["train_top1"])


def refuse_nan(run: Run, loss: float) -> None:
    """Raise where a loss is no number.

    Raises:
        Diverged: says where, with which learning rates, and what may help.
    """
    if not math.isfinite(loss):
        rates = [f"{group['lr']:.2g}" for group in run.learner.optimizer.param_groups]
        raise Diverged(
            f"the loss is {loss} in epoch {run.standing.epoch + 1}, step {run.standing.batch + 1} (learning rates "
            f"{', '.join(rates)}); {run.job.out} keeps the last good checkpoint. A lower learning rate, a longer "
            f"warm-up or optim.clip_norm may help"
        )


def outcome(run: Run) -> Outcome:
    """Return how the call ended."""
    at = run.standing
    finished = at.epoch >= run.job.recipe.optim.epochs
    metrics = at.best.metrics if at.best is not None else {}
    return Outcome(finished, at.epoch, metrics, run.stop.signalled and not finished, run.world.leads)
