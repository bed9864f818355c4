"""The paper's table, with the controls it lacked: arms × seeds under one recipe, as means and paired differences.

Every run has its own folder below the comparison's and is skipped once its `result.json` exists. So a comparison can
be made in pieces, even on several machines, and extended by arms and seeds later. Where a 95% interval contains zero,
the table says so.
"""

import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from model.files import write_whole
from training.arms import apply_arm
from training.checkpoint import LAST, SELECTED, load_selected
from training.data.batches import served_photos, training_photos
from training.data.samples import hold_out
from training.errors import CheckpointError, DatasetError, Diverged, TrainingError
from training.evaluation.evaluate import evaluate_run
from training.evaluation.tables import values_of
from training.fit.job import Job
from training.fit.loop import fit
from training.fit.processes import pick_device
from training.table import Result, draw, markdown, results_csv

RESULT = "result.json"
PLAN = "compare.json"


@dataclass(frozen=True)
class Comparison:
    """Arms and seeds to compare, and how they are run.

    Attributes:
        job: of every run but for its arm and seed; `out` is the folder of the comparison, and the time budget is that
            of all runs together.
        arms: names in `training.arms`.
        seeds: of every arm.
        data: name of the data set's folder: a comparison is continued on the same.
        processes: runs at the same time, each in its own process.
        keep_weights: keep `best.pt` of finished runs; their checkpoints are always removed.
    """

    job: Job
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    data: str
    processes: int = 1
    keep_weights: bool = False


def compare(comparison: Comparison) -> bool:
    """Do the missing runs as far as time allows, and write the table; return whether all runs are done.

    Raises:
        TrainingError: the folder holds a comparison with another recipe, or a run fails.
        DatasetError: there are no test images.
    """
    job = comparison.job
    # Wall-clock time, because the processes of the runs share it.
    ends = None if job.time_budget_s is None else time.time() + job.time_budget_s
    for arm in comparison.arms:
        apply_arm(job.recipe, arm)
    if not job.dataset.test:
        raise DatasetError(f"{job.dataset.name} has no test images to compare the arms by")
    job.out.mkdir(parents=True, exist_ok=True)
    _agree_on_plan(comparison)
    missing = [
        (arm, seed)
        for seed in comparison.seeds  # seed by seed, so that an unfinished comparison has complete pairs
        for arm in comparison.arms
        if not (run_folder(job.out, arm, seed) / RESULT).is_file()
    ]
    if comparison.processes > 1 and missing:
        _run_in_parallel(comparison, missing, ends)
    else:
        for arm, seed in missing:
            if not run_one(comparison, arm, seed, ends):
                break
    results = read_results(job.out)
    if results:
        write_tables(results, job.out)
    done = {(result["arm"], result["seed"]) for result in results}
    return all((arm, seed) in done for arm in comparison.arms for seed in comparison.seeds)


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
        _write_result(folder, {"arm": arm, "seed": seed, "diverged": str(error)})
        return True
    if not outcome.finished:
        return False
    device = pick_device(job.device)
    evaluation = evaluate_run(
        load_selected(folder), job.dataset, job.dataset.test, device, job.workers, visible=False, cache=job.cache
    )
    result: Result = {
        "arm": arm,
        "seed": seed,
        **values_of(evaluation),
        **{f"held_out_{name}": value for name, value in outcome.metrics.items()},
        "epochs": recipe.optim.epochs,
        "seconds_of_last_piece": round(time.monotonic() - started, 1),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }
    _write_result(folder, result)
    (folder / LAST).unlink(missing_ok=True)
    if not comparison.keep_weights:
        (folder / SELECTED).unlink(missing_ok=True)
    return True


def run_folder(out: Path, arm: str, seed: int) -> Path:
    """Return the folder of one run."""
    return out / arm / f"seed-{seed}"


def read_results(out: Path) -> list[Result]:
    """Return the results so far, in the order of arms and seeds."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob(f"*/seed-*/{RESULT}"))]
    order = list(json.loads((out / PLAN).read_text(encoding="utf-8"))["arms"])
    return sorted(results, key=lambda result: (order.index(result["arm"]), result["seed"]))


def write_tables(results: Sequence[Result], out: Path) -> None:
    """Write table.md, table.csv and table.png."""
    plan = json.loads((out / PLAN).read_text(encoding="utf-8"))
    write_whole(out / "table.md", markdown(results, plan))
    write_whole(out / "table.csv", results_csv(results))
    draw(results, out / "table.png")


def _agree_on_plan(comparison: Comparison) -> None:
    """Write the plan into the folder; if it holds one, check that it is the same but for arms, and add these."""
    job = comparison.job
    path = job.out / PLAN
    plan: dict[str, Any] = {
        "recipe": replace(job.recipe, seed=0).to_dict(),
        "dataset": comparison.data,
        "weights": job.weights_name,
        "arms": list(comparison.arms),
    }
    if path.is_file():
        old = json.loads(path.read_text(encoding="utf-8"))
        for key in ("recipe", "dataset", "weights"):
            if old[key] != plan[key]:
                raise CheckpointError(f"{job.out} holds a comparison with another {key}: take another --out")
        plan["arms"] = list(dict.fromkeys([*old["arms"], *comparison.arms]))
    write_whole(path, json.dumps(plan, indent=2) + "\n")


def _write_result(folder: Path, result: Result) -> None:
    write_whole(folder / RESULT, json.dumps(result, indent=2) + "\n")


def _run_in_parallel(comparison: Comparison, missing: list[tuple[str, int]], ends: float | None) -> None:
    """Do several runs at once: small networks leave most of a GPU idle."""
    _fill_stores(comparison.job)  # once, before all processes would decode the same photos
    with ProcessPoolExecutor(comparison.processes, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_run_in_process, comparison, arm, seed, ends): (arm, seed) for arm, seed in missing}
        failures = []
        for future in as_completed(futures):
            arm, seed = futures[future]
            try:
                finished = future.result()
            except TrainingError as error:
                failures.append(f"{arm}, seed {seed}: {error}")
                continue
            if comparison.job.visible:
                sys.stderr.write(f"{arm}, seed {seed}: {'done' if finished else 'stopped, the next call resumes it'}\n")
                sys.stderr.flush()
    if failures:
        raise TrainingError("; ".join(failures))


def _run_in_process(comparison: Comparison, arm: str, seed: int, ends: float | None) -> bool:
    threads = max(1, torch.get_num_threads() // comparison.processes)
    torch.set_num_threads(threads if comparison.job.device == "cpu" else 1)
    return run_one(comparison, arm, seed, ends)


def _fill_stores(job: Job) -> None:
    data, banner = job.recipe.data, job.dataset.banner
    train, held = hold_out(job.dataset.train, data.held_out, data.held_out_seed)
    training_photos(train, job.recipe, banner, job.cache, progress=job.visible)
    served_photos(held, data, banner, job.cache, progress=job.visible)
