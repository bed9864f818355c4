"""Folds: every training photo is answered once by a network that was not trained on it, then one is trained on all.

The folds' runs lie in `folds/1` and so on below the last one's folder. None of them selects an epoch, so that a fold's
photos are held out indeed. What the last network's calibration needs, and what accuracy to expect of it, comes from
the folds.

Source: Stone 1974, "Cross-validatory choice and assessment of statistical predictions".
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from training.calibration.outputs import FOLDS, HELD_OUT, TRAINED, Outputs
from training.checkpoint import LAST, SELECTED, Selected, write
from training.data.check import content_of
from training.data.samples import Sample, spread
from training.errors import CheckpointError, DatasetError
from training.evaluation.figures import share
from training.evaluation.scores import accuracy_figures, fit_temperature
from training.fit.job import Job, Outcome, Parts
from training.fit.loaders import served_batches
from training.fit.loop import expect, introduce, set_up, train
from training.fit.outputs import MOST_TRAINED, keep_outputs, outputs_of
from training.fit.processes import ProcessGroup, StopRequest, process_group
from training.fit.state import ADVICE, held_alone, read_checkpoint
from training.fit.words import few

FACT = "folds"
"""Key of the folds' figures in the facts of the last run."""


def fit_folds(job: Job, folds: int) -> Outcome:
    """Train the folds and then the last network on all photos, or resume, until all is done or a stop is requested.

    Args:
        job: of the last run; its recipe's held-out part and selection do not apply.
        folds: number of them, at least 2.

    Raises:
        DatasetError: a class has too few photos.
        CheckpointError: the folder holds another run.
        Diverged: a loss is no longer a number.
    """
    parts = divide(job.dataset.train, folds, job.recipe.data.held_out_seed, job.dataset.labels)
    recipe = job.recipe.with_values({"data.held_out": 0.0, "run.selection": "last"})
    job = replace(job, recipe=recipe, parts=Parts(list(job.dataset.train), []))
    with (
        process_group(job.device) as processes,
        StopRequest(job.time_budget_s, announced=job.visible and processes.leads) as stop,
        held_alone(job.out, processes.leads),
    ):
        if job.fresh:
            _discard(job.out, processes)
            job = replace(job, fresh=False)
        read_checkpoint(job, processes)  # refuses another run before the folds are trained
        begun = False
        for number, division in enumerate(parts, 1):
            fold = replace(job, out=job.out / FOLDS / str(number), parts=division)
            if _is_done(fold, processes):
                continue
            outcome = _fit_fold(fold, number, folds, processes, stop, first=not begun)
            begun = True
            if not outcome.finished or processes.any(stop.wanted()):
                return replace(outcome, finished=False, interrupted=stop.signalled, fold=number)
        return _fit_last(job, folds, processes, stop, first=not begun)


def divide(samples: Sequence[Sample], folds: int, seed: int, labels: Sequence[str]) -> list[Parts]:
    """Return the division of each fold: every photo is held out in one, a class is spread evenly over all.

    Photos of the same bytes are in the same fold.

    Args:
        samples: the training photos.
        folds: number of them.
        seed: which photos are held out together.
        labels: of the classes.

    Raises:
        DatasetError: a class has one photo alone, or there are fewer photos than folds.
    """
    photos: dict[int, dict[str, None]] = {}
    for sample in samples:
        photos.setdefault(sample.label, {})[_key(sample)] = None
    if single := [labels[label] for label, keys in photos.items() if len(keys) == 1]:
        raise DatasetError(
            f"folds need at least two different photos of a class; {len(single)} classes have one: "
            f"{', '.join(single[:5])}"
        )
    rng, places = np.random.default_rng(seed), count()
    fold_of: dict[str, int] = {}
    for label in sorted(photos):
        keys = list(photos[label])
        for index in rng.permutation(len(keys)):
            # Counted on from class to class, so that the folds are of one size.
            fold_of.setdefault(keys[index], next(places) % folds)
    if len(fold_of) < folds:
        raise DatasetError(f"{len(fold_of)} photos cannot be divided into {folds} folds")
    numbers = [fold_of[_key(sample)] for sample in samples]
    return [
        Parts(
            [sample for sample, number in zip(samples, numbers, strict=True) if number != fold],
            [sample for sample, number in zip(samples, numbers, strict=True) if number == fold],
        )
        for fold in range(folds)
    ]


def _key(sample: Sample) -> str:
    return sample.digest or str(sample.path)


def _is_done(fold: Job, processes: ProcessGroup) -> bool:
    """Whether a fold's photos are answered.

    Raises:
        CheckpointError: they are, but those of another division, or by another recipe.
    """
    outputs = Outputs.read(fold.out / HELD_OUT)
    if outputs is None or not (fold.out / TRAINED).is_file():
        return False
    read_checkpoint(fold, processes)
    if fold.parts is None or outputs.content.tolist() != content_of(fold.parts.held):
        raise CheckpointError(f"{fold.out} holds out other photos, or the number of folds was another: {ADVICE}")
    return True


def _fit_fold(
    fold: Job, number: int, folds: int, processes: ProcessGroup, stop: StopRequest, *, first: bool
) -> Outcome:
    """Train a fold, and answer its photos; the first of a call says what all that are left take."""
    run = set_up(fold, processes, stop)
    if first:
        introduce(run)
        expect(run, folds - number + 2)
    run.progress.say(f"fold {number} of {folds}: {len(run.parts.train)} photos, {len(run.parts.held)} held out")
    outcome = train(run)
    if outcome.finished and processes.leads:
        trained = spread(run.parts.train, MOST_TRAINED)
        batches = served_batches(fold, trained, run.learner, processes)
        outputs_of(run.learner, batches, trained, number).write(fold.out / TRAINED)
        outputs_of(run.learner, run.loaders.held, run.parts.held, number).write(fold.out / HELD_OUT)
    processes.wait()
    stop.end()
    return outcome


def _fit_last(job: Job, folds: int, processes: ProcessGroup, stop: StopRequest, *, first: bool) -> Outcome:
    """Train on all photos; calibrate and measure by the answers of the folds."""
    run = set_up(job, processes, stop)
    if first:
        expect(run)
    run.progress.say(f"all {len(run.parts.train)} photos")
    outcome = train(run)
    selected = run.state.best
    if not outcome.finished or selected is None:  # only the leader selects
        processes.wait()
        return outcome
    if FACT not in selected.facts:
        read = (Outputs.read(job.out / FOLDS / str(number) / HELD_OUT) for number in range(1, folds + 1))
        outputs = Outputs.joined([each for each in read if each is not None])
        outputs.write(job.out / HELD_OUT)
        keep_outputs(job, run.parts, run.learner, run.loaders, selected, processes)
        selected = _measured(selected, outputs)
        write(job.out / SELECTED, selected.to_dict())
    processes.wait()
    top1 = selected.facts[FACT]["top1"]
    run.progress.say(
        f"held out in {folds} folds: top-1 {top1['value']:.1%} ({top1['low']:.1%} to {top1['high']:.1%}) "
        f"of {top1['n']} photos; keeps the last epoch, because no fold may choose one"
    )
    for line in few(selected.temperature, top1["n"]):
        run.progress.say(line)
    return replace(outcome, metrics=selected.metrics, folds=selected.facts[FACT])


def _measured(selected: Selected, outputs: Outputs) -> Selected:
    """Return the last network's weights with temperature and figures of the folds."""
    temperature = fit_temperature(outputs.logits, outputs.labels)
    hits = outputs.logits.argmax(axis=1) == outputs.labels
    each = [share(hits[outputs.fold == number]).to_dict() for number in np.unique(outputs.fold)]
    facts: dict[str, Any] = {"count": len(each), "top1": share(hits).to_dict(), "top1_of_each": each}
    metrics = accuracy_figures(outputs.logits, outputs.labels, temperature)
    return replace(selected, temperature=temperature, metrics=metrics, facts={**selected.facts, FACT: facts})


def _discard(out: Path, processes: ProcessGroup) -> None:
    """Remove what an earlier run left, so that an interrupted start over goes on from what is new."""
    if processes.leads:
        shutil.rmtree(out / FOLDS, ignore_errors=True)
        for name in (LAST, SELECTED, HELD_OUT, TRAINED):
            (out / name).unlink(missing_ok=True)
    processes.wait()
