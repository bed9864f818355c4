"""The training run, top to bottom: set-up → data → model → loop → selected weights.

A run can stop after any step (Ctrl-C, a time budget, a crash) and continues with the same command. On the CPU it
ends with exactly the weights of a run that was never stopped.
"""

import math
import time
from dataclasses import dataclass

import torch

from training.data.batches import EpochOrder
from training.data.check import content_of
from training.data.marks import Marks
from training.data.samples import hold_out
from training.errors import DatasetError, Diverged
from training.fit.head_start import start_head
from training.fit.job import Job, Outcome, Parts
from training.fit.journal import CURVES, Journal, Progress, Record, describe, draw_curves
from training.fit.learner import Learner
from training.fit.loaders import Loaders, open_loaders, served_images
from training.fit.optim import learning_rate_factor
from training.fit.outputs import discard_outputs, keep_outputs
from training.fit.processes import AGREE_EVERY, ProcessGroup, StopRequest, process_group
from training.fit.rehearsal import STEPS, pace
from training.fit.selection import measure, select
from training.fit.sight import learn_to_see
from training.fit.state import TrainingState, held_alone, read_checkpoint, starting_weights
from training.fit.words import duration, expectation, introduction, kept

SAVE_EVERY_S = 30.0
"""A crash loses at most so many seconds of training, and one epoch."""


@dataclass(frozen=True)
class Run:
    """The parts of one run in one process; none of them refers to another or to the run.

    Attributes:
        job: input of `fit`.
        processes: the group this process belongs to.
        stop: checked after every step.
        parts: photos that are trained on, and that are held out.
        order: of the photos in each epoch.
        learner: network, loss, optimiser.
        loaders: batches of both parts.
        state: epoch, batch, and the weights selected so far.
        journal: of the epochs so far, on disk.
        progress: bar.
    """

    job: Job
    processes: ProcessGroup
    stop: StopRequest
    parts: Parts
    order: EpochOrder
    learner: Learner
    loaders: Loaders
    state: TrainingState
    journal: Journal
    progress: Progress


def fit(job: Job) -> Outcome:
    """Train, or resume training, until all epochs are done or a stop is requested.

    Raises:
        DatasetError: a photo is damaged or missing, or there is no training image.
        CheckpointError: the folder holds another run, or a checkpoint cannot be written.
        Diverged: the loss is no longer a number.
    """
    with (
        process_group(job.device) as processes,
        StopRequest(job.time_budget_s, announced=job.visible and processes.leads) as stop,
        held_alone(job.out, processes.leads),
    ):
        run = set_up(job, processes, stop)
        introduce(run)
        expect(run)
        result = train(run)
        if result.finished and job.keep_outputs and run.state.best is not None:
            keep_outputs(job, run.parts, run.learner, run.loaders, run.state.best, processes)
        return result


def set_up(job: Job, processes: ProcessGroup, stop: StopRequest) -> Run:
    """Return a run that is ready to train, from the start or from its checkpoint."""
    recipe, data, optim = job.recipe, job.recipe.data, job.recipe.optim
    if not job.dataset.train:
        raise DatasetError(f"{job.dataset.name}: no training images")
    job.out.mkdir(parents=True, exist_ok=True)
    if job.fresh:
        discard_outputs(job.out)
    saved = read_checkpoint(job, processes)

    # Data: lists only; no photo is decoded yet.
    parts = job.parts or Parts(*hold_out(job.dataset.train, data.held_out, data.held_out_seed))
    order = EpochOrder(len(parts.train), recipe.seed, optim.batch_size, processes.rank, processes.size)

    # Model: a checkpoint replaces the starting weights.
    weights = None if saved else starting_weights(job)
    learner = Learner(recipe, job.dataset.num_classes, weights, processes, job.dataset.marks)
    state = TrainingState(torch.zeros(6, device=processes.device), content=content_of([*parts.train, *parts.held]))
    if saved:
        state.resume(saved, job, learner, len(parts.train))

    # Photos come after the model, because a frozen part turns them into features. Decoding takes longest.
    loaders = open_loaders(job, parts, order, learner, processes)
    if recipe.optim.head_start == "discriminant" and not saved:
        start_head(learner, loaders.train.dataset, len(parts.train), optim.batch_size)

    journal = Journal(job.out, state.epoch, write=processes.leads)
    done = state.epoch * len(order) + state.batch
    progress = Progress(optim.epochs * len(order), done, visible=job.visible and processes.leads)
    return Run(job, processes, stop, parts, order, learner, loaders, state, journal, progress)


def introduce(run: Run) -> None:
    """Say what was found and what is trained."""
    for line in introduction(run.job, run.parts, run.learner, run.processes.device):
        run.progress.say(line)


def expect(run: Run, runs: int = 1) -> None:
    """Say how long the run will take; nothing where that is no longer than measuring it.

    Args:
        run: ready to train.
        runs: of the same kind, this one included.
    """
    at, epochs = run.state, run.job.recipe.optim.epochs
    steps = (epochs - at.epoch) * len(run.order) - at.batch
    if run.job.visible and steps > 2 * STEPS and len(run.order) - at.batch > 1:
        pace_s = pace(run.learner, run.loaders.train, run.order, at, run.processes)
        evaluations, marks = runs * (epochs - at.epoch) * len(run.loaders.held), run.job.recipe.marks
        for line in expectation(pace_s, runs * steps, evaluations, 0 if run.learner.marks is None else marks.sight):
            run.progress.say(line)


def train(run: Run) -> Outcome:
    """Train until done or stopped; always leave a checkpoint that the next call resumes from."""
    at, epochs = run.state, run.job.recipe.optim.epochs
    if at.epoch >= epochs:
        run.progress.close()
        return outcome(run)
    if at.epoch or at.batch:
        run.progress.say(f"resuming after epoch {at.epoch}, step {at.batch}")
    run.stop.begin()
    saved_at = time.monotonic()
    try:
        while at.epoch < epochs and train_epoch(run):
            if at.epoch < epochs and run.processes.any(time.monotonic() - saved_at > SAVE_EVERY_S):
                save(run)
                saved_at = time.monotonic()
        save(run)
    finally:
        run.progress.close()
    if at.epoch >= epochs and run.processes.leads:
        draw_curves(run.journal.records, run.job.out / CURVES)
        if at.best is not None and run.job.parts is None:  # of folds all photos calibrate, and no epoch is chosen
            for line in kept(at.best, run.journal.records, len(run.parts.held)):
                run.progress.say(line)
    return outcome(run)


def train_epoch(run: Run) -> bool:
    """Train one epoch, or the rest of it; return whether it was finished."""
    at, batches = run.state, len(run.order)
    started, first = time.monotonic(), at.batch
    run.learner.network.train()
    run.order.begin(at.epoch, first)
    for inputs, targets in run.loaders.train:
        targets = targets.to(run.processes.device, non_blocking=True)
        losses = run.learner.step(inputs, targets, at.epoch, at.batch, batches)
        at.add(losses, targets)
        if run.processes.device.type == "cpu":  # on CUDA reading the loss would block the device
            refuse_nan(run, float(losses.total.detach()))
        at.batch += 1
        if run.progress.step():
            means = at.means()
            refuse_nan(run, means["loss"])
            run.progress.show(at.epoch, run.job.recipe.optim.epochs, means["loss"], means["train_top1"])
        if may_pause(run) and at.batch < batches:
            return False
    finish_epoch(run, time.monotonic() - started, at.batch - first)
    return True


def finish_epoch(run: Run, seconds: float, batches: int) -> None:
    """Evaluate the epoch, keep its weights if they are the best, and write its line of the journal."""
    at, optim = run.state, run.job.recipe.optim
    means = at.means()
    refuse_nan(run, means["loss"])
    at.epoch, at.batch = at.epoch + 1, 0
    at.totals.zero_()
    factor = learning_rate_factor(optim, at.epoch - 0.5)
    record: Record = {
        "epoch": at.epoch,
        **means,
        "lr_backbone": factor * optim.lr_backbone,
        "lr_new": factor * optim.lr_new,
        "seconds": round(seconds, 3),
        "images_per_s": round(batches * optim.batch_size / max(seconds, 1e-9), 1),
    }
    if run.processes.leads:
        if at.epoch == optim.epochs and run.learner.marks is not None:
            see(run, run.learner.marks)
        selected = measure(run.job, run.parts, run.learner, run.loaders, at.epoch)
        record |= {f"held_out_{name}": value for name, value in selected.metrics.items() if name != "images"}
        at.best = select(at.best, selected)
        run.progress.say(describe(record, optim.epochs))
    run.processes.wait()
    run.journal.add(record)


def see(run: Run, marks: Marks) -> None:
    """Let the readers of marks learn what can be seen, where the recipe says so."""
    recipe, count = run.job.recipe, len(run.parts.train)
    if not recipe.marks.sight:
        return
    started, photos = time.monotonic(), served_images(run.job, run.parts.train, run.processes)

    def step(done: int, steps: int) -> None:
        if done == STEPS:
            seconds = (time.monotonic() - started) / done * (steps - done)
            run.progress.say(f"readers of marks, with hidden parts: about {duration(seconds)} to go")

    learn_to_see(run.learner.evaluated, recipe, marks, photos, count, run.processes.device, step)


def save(run: Run) -> None:
    """Write the checkpoint, unless the loss is not finite."""
    if run.state.batch:
        refuse_nan(run, run.state.means()["loss"])
    if run.processes.leads:
        run.state.save(run.job, run.learner, len(run.parts.train))
    run.processes.wait()


def may_pause(run: Run) -> bool:
    """Return whether to stop here: only between optimiser steps, and all processes at the same one."""
    every = run.job.recipe.optim.accumulate * (AGREE_EVERY if run.processes.size > 1 else 1)
    return run.state.batch % every == 0 and run.processes.any(run.stop.wanted())


def refuse_nan(run: Run, loss: float) -> None:
    """Raise if a loss is not finite.

    Raises:
        Diverged: the message names epoch, step and learning rates, and what may help.
    """
    if not math.isfinite(loss):
        rates = [f"{group['lr']:.2g}" for group in run.learner.optimizer.param_groups]
        raise Diverged(
            f"the loss is {loss} in epoch {run.state.epoch + 1}, step {run.state.batch + 1} (learning rates "
            f"{', '.join(rates)}); {run.job.out} keeps the last good checkpoint. A lower learning rate, a longer "
            f"warm-up or optim.clip_norm may help"
        )


def outcome(run: Run) -> Outcome:
    """Return how the call ended."""
    at = run.state
    finished = at.epoch >= run.job.recipe.optim.epochs
    metrics = at.best.metrics if at.best is not None else {}
    return Outcome(finished, at.epoch, metrics, run.stop.signalled and not finished, run.processes.leads)
