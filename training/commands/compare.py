"""The paper's table, with the controls it lacked: arms × seeds under one recipe, as means and paired differences.

Every run has its own folder below the comparison's and is skipped once its `result.json` exists. So a comparison can
be made in pieces, even on several machines, and extended by arms and seeds later. Where a 95% interval contains zero,
the table says so.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path

import torch

from training.arms import apply_arm
from training.checkpoint import LAST, SELECTED, load_selected
from training.data.batches import served_photos, training_photos
from training.data.samples import hold_out
from training.errors import DatasetError, Diverged, TrainingError
from training.evaluation.evaluate import evaluate_run
from training.evaluation.tables import photo_measures, values_of
from training.fit.job import Job
from training.fit.loop import fit
from training.fit.processes import pick_device
from training.grid import GridRun, Setting
from training.predictions import digest_of, names_of, photos_digest, predictions_of
from training.results import RESULT, Plan, Result, agree_on_plan, read_runs, run_folder, write_result
from training.table import write_tables

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Comparison:
    """Arms and seeds to compare, and how they are run.

    Attributes:
        job: of every run but for its arm and seed; `out` is the folder of the comparison, and the time budget is that
            of all runs together.
        arms: names in `training.arms`.
        seeds: of every arm.
        data: folder of the data set: a comparison is continued on one of the same name.
        processes: runs at the same time, each in its own process.
        keep_weights: keep `best.pt` of finished runs; their checkpoints are always removed.
    """

    job: Job
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    data: Path
    processes: int = 1
    keep_weights: bool = False

    def runs(self) -> list["Run"]:
        """Return all runs, seed by seed, so that an unfinished comparison has complete pairs."""
        return [Run(self, arm, seed) for seed in self.seeds for arm in self.arms]

    def plan(self) -> Plan:
        """Return what all runs share."""
        job, test = self.job, self.job.dataset.test
        return {
            "recipe": replace(job.recipe, seed=0).to_dict(),
            "dataset": self.data.resolve().name,
            "weights": job.weights_name,
            "labels": digest_of(job.dataset.labels),
            "photos": photos_digest(names_of(test, self.data), (sample.label for sample in test)),
            "arms": list(self.arms),
        }


@dataclass(frozen=True)
class Run:
    """One arm with one seed.

    Attributes:
        comparison: it is part of.
        arm: its name.
        seed: of weights, order and augmentation.
    """

    comparison: Comparison
    arm: str
    seed: int

    @property
    def folder(self) -> Path:
        """Where its result is written."""
        return run_folder(self.comparison.job.out, self.arm, self.seed)

    @property
    def done(self) -> bool:
        """Whether its result exists."""
        return (self.folder / RESULT).is_file()


def compare(comparison: Comparison) -> bool:
    """Do the missing runs as far as time allows, and write the table; return whether all runs are done.

    Raises:
        TrainingError: the folder holds a comparison with another recipe, or a run fails.
        DatasetError: there are no test images.
    """
    return do(comparison.runs())


def runs_of(
    listed: Sequence[GridRun],
    chosen: Sequence[GridRun],
    job_of: Callable[[Setting], Job],
    processes: int = 1,
    keep_weights: bool = False,
) -> list[Run]:
    """Return the runs of a list that this machine does.

    Args:
        listed: all runs; the plan of each comparison names all its arms in this order, on every machine.
        chosen: those to do.
        job_of: the job of a comparison, called once for each.
        processes: as for `Comparison`.
        keep_weights: likewise.
    """
    comparisons = {}
    for setting in {one.setting.name: one.setting for one in chosen}.values():
        members = [one for one in listed if one.setting.name == setting.name]
        comparisons[setting.name] = Comparison(
            job_of(setting),
            tuple(dict.fromkeys(one.arm for one in members)),
            tuple(dict.fromkeys(one.seed for one in members)),
            Path(setting.data),
            processes,
            keep_weights,
        )
    return [Run(comparisons[one.setting.name], one.arm, one.seed) for one in chosen]


def do(runs: Sequence[Run]) -> bool:
    """Do those runs that are missing, as far as time allows, and write each comparison's table.

    Args:
        runs: of one comparison or of several, which share the number of processes and the time budget.

    Returns:
        Whether all of them are done.

    Raises:
        TrainingError: a folder holds a comparison with another recipe, or a run fails.
        DatasetError: there are no test images.
    """
    comparisons = list({run.comparison.job.out: run.comparison for run in runs}.values())
    for comparison in comparisons:
        _prepare(comparison)
    missing = [run for run in runs if not run.done]
    if missing:
        # Wall-clock time, because the processes of the runs share it.
        budget = missing[0].comparison.job.time_budget_s
        ends = None if budget is None else time.time() + budget
        if missing[0].comparison.processes > 1:
            _run_in_parallel(missing, ends)
        else:
            for run in missing:
                if not run_one(run.comparison, run.arm, run.seed, ends):
                    break
    for comparison in comparisons:
        found = read_runs(comparison.job.out)
        if found.results:
            write_tables(found, comparison.job.out)
    return all(run.done for run in runs)


def run_one(comparison: Comparison, arm: str, seed: int, ends: float | None) -> bool:
    """Train and evaluate one arm with one seed; return whether it was finished in time.

    Args:
        comparison: the run is part of.
        arm: its name.
        seed: of the run.
        ends: Unix time at which to stop cleanly; None: no limit.
    """
    left = None if ends is None else ends - time.time()
    if left is not None and left <= 0:
        return False
    recipe = replace(apply_arm(comparison.job.recipe, arm), seed=seed)
    folder = run_folder(comparison.job.out, arm, seed)
    visible = comparison.job.visible and comparison.processes == 1
    job = replace(comparison.job, recipe=recipe, out=folder, time_budget_s=left, visible=visible)
    started = time.monotonic()
    try:
        outcome = fit(job)
    except Diverged as error:
        # A result of the arm, not a failure of the comparison: it is part of the table, and the other arms continue.
        write_result(folder, {"arm": arm, "seed": seed, "diverged": str(error)})
        return True
    if outcome.interrupted:
        raise KeyboardInterrupt
    if not outcome.finished:
        return False
    device = pick_device(job.device)
    evaluation = evaluate_run(
        load_selected(folder), job.dataset, job.dataset.test, device, job.workers, visible=False, cache=job.cache
    )
    measures = photo_measures(evaluation)
    predictions = predictions_of(
        evaluation.prediction.logits,
        evaluation.samples,
        evaluation.names,
        evaluation.temperature,
        comparison.data,
        measures,
    )
    predictions.write(folder)  # before the result, with which the run counts as done
    result: Result = {
        "arm": arm,
        "seed": seed,
        **values_of(evaluation, measures),
        **{f"held_out_{name}": value for name, value in outcome.metrics.items()},
        "epochs": recipe.optim.epochs,
        "seconds_of_last_piece": round(time.monotonic() - started, 1),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "predictions": predictions.digest,
    }
    write_result(folder, result)
    (folder / LAST).unlink(missing_ok=True)
    if not comparison.keep_weights:
        (folder / SELECTED).unlink(missing_ok=True)
    return True


def gpus_of(device: str) -> list[str]:
    """Return the GPUs that runs may be spread over, as `CUDA_VISIBLE_DEVICES` names them; none on the CPU.

    Args:
        device: as for `training.fit.job.Job`; one that is named alone, such as `cuda:1`, is not spread over others.
    """
    if device not in ("auto", "cuda"):
        return []
    count = torch.cuda.device_count()
    named = os.environ.get(VISIBLE)
    return named.split(",")[:count] if named else [str(index) for index in range(count)]


def _prepare(comparison: Comparison) -> None:
    """Check a comparison before its first run, and write its plan."""
    job = comparison.job
    for arm in comparison.arms:
        apply_arm(job.recipe, arm)
    if not job.dataset.test:
        raise DatasetError(f"{job.dataset.name} has no test images to compare the arms by")
    job.out.mkdir(parents=True, exist_ok=True)
    agree_on_plan(job.out, comparison.plan())


def _run_in_parallel(runs: Sequence[Run], ends: float | None) -> None:
    """Do several runs at once, spread over the GPUs: small networks leave most of one idle."""
    first = runs[0].comparison
    for job in {run.comparison.job.out: run.comparison.job for run in runs}.values():
        _fill_stores(job)  # once, before all processes would decode the same photos
    context, gpus = get_context("spawn"), gpus_of(first.job.device)
    free: Queue[str] = context.Queue()
    for index in range(first.processes if gpus else 0):
        free.put(gpus[index % len(gpus)])
    with ProcessPoolExecutor(first.processes, context, take_gpu, (free if gpus else None,)) as pool:
        futures = {pool.submit(_run_in_process, run, ends): run for run in runs}
        failures = []
        for future in as_completed(futures):
            run = futures[future]
            try:
                finished = future.result()
            except TrainingError as error:
                failures.append(f"{run.arm}, seed {run.seed}: {error}")
                continue
            if first.job.visible:
                done = "done" if finished else "stopped, the next call resumes it"
                sys.stderr.write(f"{run.arm}, seed {run.seed}: {done}\n")
                sys.stderr.flush()
    if failures:
        raise TrainingError("; ".join(failures))


def take_gpu(free: "Queue[str] | None") -> None:
    """Let this process see one GPU only, its `cuda` from then on; torch reads the variable when it first uses CUDA."""
    if free is not None:
        os.environ[VISIBLE] = free.get()


def _run_in_process(run: Run, ends: float | None) -> bool:
    comparison = run.comparison
    threads = max(1, torch.get_num_threads() // comparison.processes)
    torch.set_num_threads(threads if comparison.job.device == "cpu" else 1)
    return run_one(comparison, run.arm, run.seed, ends)


def _fill_stores(job: Job) -> None:
    data, banner = job.recipe.data, job.dataset.banner
    train, held = hold_out(job.dataset.train, data.held_out, data.held_out_seed)
    training_photos(train, job.recipe, banner, job.cache, progress=job.visible)
    served_photos(held, data, banner, job.cache, progress=job.visible)
