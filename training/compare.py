"""The paper's table, with the controls it lacked: arms × seeds under one recipe, as means and paired differences.

Every run has a folder of its own below the comparison's, and is skipped once its `result.json` is there, so a
comparison can be made in pieces, on several machines even, and be extended by arms and seeds later. The table says
what was measured: where a 95% interval contains zero, it says that too.
"""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch

from model.files import write_whole
from training.arms import apply_arm
from training.checkpoint import LAST, SELECTED, load_selected
from training.data.check import examine
from training.data.datasets import load_dataset
from training.data.samples import Dataset
from training.errors import CheckpointError, DatasetError, Diverged, TrainingError
from training.evaluation.evaluate import judge_selected
from training.fit.job import Job
from training.fit.loop import fit
from training.fit.processes import pick_device
from training.recipe import Recipe
from training.table import Result, draw, markdown, results_csv

RESULT = "result.json"
PLAN = "compare.json"


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how it is run.

    Attributes:
        recipe: of all arms.
        arms: names in `training.arms`.
        seeds: of every arm.
        data: folder of the data set.
        kind: of the data set, as for `load_dataset`.
        layout: of its folders, likewise.
        skip_damaged: leave damaged photos out.
        weights: of the backbone at the start.
        out: folder of the comparison.
        cache: of decoded photos.
        device: as for `fit`.
        workers: for each run.
        jobs: runs at the same time, each in a process of its own.
        time_budget_s: stop cleanly after so many seconds; None: no limit.
        keep_weights: keep `best.pt` of finished runs; checkpoints of finished runs are always removed.
        visible: show progress.
        commit: of this project.
    """

    recipe: Recipe
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    data: Path
    kind: str
    weights: Literal["imagenet"] | Path | None
    out: Path
    cache: Path
    device: str = "auto"
    workers: int = 0
    jobs: int = 1
    time_budget_s: float | None = None
    keep_weights: bool = False
    visible: bool = True
    commit: str = "unknown"
    layout: str = "auto"
    skip_damaged: bool = False


def compare(comparison: Comparison) -> bool:
    """Run what is missing, as far as time allows, and write the table; return whether all is done.

    Raises:
        TrainingError: the folder holds a comparison under another recipe, or nothing can be trained.
    """
    deadline = None if comparison.time_budget_s is None else time.monotonic() + comparison.time_budget_s
    comparison.out.mkdir(parents=True, exist_ok=True)
    for arm in comparison.arms:
        apply_arm(comparison.recipe, arm)
    _agree_on_plan(comparison)
    missing = [
        (arm, seed)
        for seed in comparison.seeds  # seed by seed, so that an unfinished comparison has whole pairs
        for arm in comparison.arms
        if not (run_folder(comparison.out, arm, seed) / RESULT).is_file()
    ]
    if comparison.jobs > 1 and missing:
        _run_side_by_side(comparison, missing, deadline)
    else:
        dataset = _dataset(comparison)
        for arm, seed in missing:
            if not run_one(comparison, dataset, arm, seed, _left(deadline)):
                break
    results = read_results(comparison.out)
    if results:
        write_tables(results, comparison.out)
    done = {(result["arm"], result["seed"]) for result in results}
    return all((arm, seed) in done for arm in comparison.arms for seed in comparison.seeds)


def run_one(comparison: Comparison, dataset: Dataset, arm: str, seed: int, time_budget_s: float | None) -> bool:
    """Train and judge one arm with one seed; return whether it was finished in time."""
    if time_budget_s is not None and time_budget_s <= 0:
        return False
    folder = run_folder(comparison.out, arm, seed)
    recipe = replace(apply_arm(comparison.recipe, arm), seed=seed)
    started = time.monotonic()
    try:
        outcome = fit(
            Job(
                recipe,
                dataset,
                folder,
                comparison.weights,
                comparison.cache,
                device=comparison.device,
                workers=comparison.workers,
                time_budget_s=time_budget_s,
                visible=comparison.visible and comparison.jobs == 1,
                commit=comparison.commit,
            )
        )
    except Diverged as error:
        # A finding about the arm, not an accident: it stands in the table, and the other arms go on.
        _write_result(folder, {"arm": arm, "seed": seed, "diverged": str(error)})
        return True
    if not outcome.finished:
        return False
    device = pick_device(comparison.device)
    judged = judge_selected(
        load_selected(folder), dataset, dataset.test, device, comparison.workers, visible=False, cache=comparison.cache
    )
    result: Result = {
        "arm": arm,
        "seed": seed,
        **judged.figures(),
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
    """Return where one run lies."""
    return out / arm / f"seed-{seed}"


def read_results(out: Path) -> list[Result]:
    """Return the results that are there, in the order of arms and seeds."""
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
    """Write what is compared into the folder, or make sure that the folder compares the same."""
    path = comparison.out / PLAN
    plan: dict[str, Any] = {
        "recipe": replace(comparison.recipe, seed=0).to_dict(),
        "dataset": comparison.data.resolve().name,
        "weights": str(comparison.weights)
        if isinstance(comparison.weights, str)
        else comparison.weights.name
        if comparison.weights
        else "random",
        "arms": list(comparison.arms),
    }
    if path.is_file():
        old = json.loads(path.read_text(encoding="utf-8"))
        for key in ("recipe", "dataset", "weights"):
            if old[key] != plan[key]:
                raise CheckpointError(f"{comparison.out} holds a comparison with another {key}: take another --out")
        plan["arms"] = list(dict.fromkeys([*old["arms"], *comparison.arms]))
    write_whole(path, json.dumps(plan, indent=2) + "\n")


def _write_result(folder: Path, result: Result) -> None:
    write_whole(folder / RESULT, json.dumps(result, indent=2) + "\n")


def _run_side_by_side(comparison: Comparison, missing: list[tuple[str, int]], deadline: float | None) -> None:
    """Run several arms at once: small networks leave most of a GPU idle."""
    # The first process to decode would be joined by the others: do it once, before they start.
    _fill_stores(comparison)
    ends = None if deadline is None else time.time() + (deadline - time.monotonic())
    with ProcessPoolExecutor(comparison.jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_run_in_process, comparison, arm, seed, ends): (arm, seed) for arm, seed in missing}
        failures = []
        for future in as_completed(futures):
            arm, seed = futures[future]
            try:
                finished = future.result()
            except TrainingError as error:
                failures.append(f"{arm}, seed {seed}: {error}")
                continue
            if comparison.visible:
                _say(f"{arm}, seed {seed}: {'done' if finished else 'stopped, goes on with the next call'}")
    if failures:
        raise TrainingError("; ".join(failures))


def _run_in_process(comparison: Comparison, arm: str, seed: int, ends: float | None) -> bool:
    torch.set_num_threads(1 if comparison.device != "cpu" else max(1, torch.get_num_threads() // comparison.jobs))
    dataset = _dataset(comparison)
    return run_one(comparison, dataset, arm, seed, None if ends is None else ends - time.time())


def _dataset(comparison: Comparison) -> Dataset:
    """Return the data set, looked at photo by photo.

    Raises:
        DatasetError: damaged photos, or no test part to judge the arms by.
    """
    dataset = load_dataset(comparison.data, comparison.kind, comparison.layout)
    dataset = examine(dataset, comparison.cache, skip_damaged=comparison.skip_damaged, progress=comparison.visible)
    if not dataset.test:
        raise DatasetError(f"{dataset.name} has no test images to compare the arms by")
    return dataset


def _fill_stores(comparison: Comparison) -> None:
    from training.data.batches import served_photos, training_photos
    from training.data.samples import hold_out

    dataset, data = _dataset(comparison), comparison.recipe.data
    train, held = hold_out(dataset.train, data.held_out, data.held_out_seed)
    visible = comparison.visible
    training_photos(train, comparison.recipe, dataset.banner, comparison.cache, progress=visible)
    served_photos(held, data, dataset.banner, comparison.cache, progress=visible)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else deadline - time.monotonic()


def _say(text: str) -> None:
    import sys

    sys.stderr.write(text + "\n")
    sys.stderr.flush()
