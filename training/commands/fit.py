"""`fieldmark-train fit`: a run, or folds and a run; its result, and what to do next."""

import shlex
import sys
from typing import Any

from training.checkpoint import LAST
from training.fit.folds import fit_folds
from training.fit.job import Job, Outcome
from training.fit.loop import fit


def run_fit(job: Job, folds: int | None) -> Outcome:
    """Train, or resume training.

    Raises:
        TrainingError: the run cannot be trained.
        KeyboardInterrupt: Ctrl-C stopped it at once; what is kept has been said.
    """
    try:
        return fit_folds(job, folds) if folds else fit(job)
    except KeyboardInterrupt:
        kept = "nothing is kept but the checked photos"
        if any(job.out.rglob(LAST)):
            kept = f"{job.out} keeps what was saved last, and the same command resumes"
        sys.stderr.write(f"stopped at once; {kept}\n")
        raise


def result_of(outcome: Outcome, job: Job, *, as_json: bool) -> dict[str, Any]:
    """Return the result for a program or for people."""
    result: dict[str, Any] = {"run": str(job.out), "finished": outcome.finished, "epochs": outcome.epoch}
    result |= {f"held_out_{name}": value for name, value in outcome.metrics.items()}
    if outcome.folds:
        top1 = outcome.folds["top1"]
        flat = {"held_out_top1_low": top1["low"], "held_out_top1_high": top1["high"], "folds": outcome.folds["count"]}
        result |= {"folds": outcome.folds} if as_json else flat
    return result


def next_words(outcome: Outcome, job: Job, photos: str, folds: int | None) -> str:
    """Return what to do next.

    Args:
        outcome: of the run.
        job: that was done.
        photos: the data set, as an option names it, with what it needs to be read.
        folds: their number; None for a plain run.
    """
    if outcome.finished:
        run = shlex.quote(str(job.out))
        there = f"fieldmark-train evaluate {run} --data {photos}" if job.dataset.test else ""
        file = shlex.quote(f"{job.out.resolve().name}.onnx")
        export = f"fieldmark-train export {run} --data {photos} --out {file}"
        return "next: " + "\n      ".join(filter(None, (there, export)))
    where = f" of fold {outcome.fold} of {folds}" if outcome.fold else ""
    return f"stopped after epoch {outcome.epoch}{where}; the same command resumes"
