"""The paper's table, with the controls it lacked: arms × seeds under one recipe, as means and paired differences.

Every run has a folder of its own below the comparison's, and is skipped once its `result.json` is there, so a
comparison can be made in pieces, on several machines even, and be extended by arms and seeds later. The table says
what was measured: where a 95% interval contains zero, it says that too.
"""

import csv
import io
import json
import math
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy import stats

from model.files import replacing, write_whole
from training.arms import apply_arm
from training.checkpoint import LAST, SELECTED, load_selected
from training.data.datasets import Dataset, load_dataset
from training.errors import CheckpointError, Diverged, TrainingError
from training.evaluation.evaluate import judge_selected
from training.fit.job import Job
from training.fit.loop import fit
from training.fit.world import pick_device
from training.recipe import Recipe

RESULT = "result.json"
PLAN = "compare.json"
BASELINE = "plain"
CONTROLS = ("unguided", "guided-uniform", "guided-shuffled")
"""What the guided arm is set against besides plain: does the content of its target matter?"""
CONFIDENCE = 0.95

Result = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how it is run.

    Attributes:
        recipe: of all arms.
        arms: names in `training.arms`.
        seeds: of every arm.
        data: folder of the data set.
        kind: of the data set, as for `load_dataset`.
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


@dataclass(frozen=True)
class Difference:
    """An arm against another, over the seeds that both have.

    Attributes:
        arm: the one.
        against: the other.
        pairs: number of seeds.
        mean: of arm − other.
        low: end of the 95% t-interval; NaN with fewer than two pairs.
        high: its other end.
    """

    arm: str
    against: str
    pairs: int
    mean: float
    low: float
    high: float

    def verdict(self) -> str:
        """Say plainly what the interval allows to say."""
        if self.pairs < 2:
            return "one seed: no interval"
        if self.low <= 0 <= self.high:
            return "contains zero: no difference shown"
        return "better" if self.low > 0 else "worse"


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
        dataset = load_dataset(comparison.data, comparison.kind)
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


def by_arm(results: Iterable[Result], metric: str) -> dict[str, dict[int, float]]:
    """Return arm → seed → value of a metric; runs that diverged have none."""
    table: dict[str, dict[int, float]] = {}
    for result in results:
        values = table.setdefault(result["arm"], {})
        if metric in result:
            values[result["seed"]] = float(result[metric])
    return table


def paired_difference(table: dict[str, dict[int, float]], arm: str, against: str) -> Difference | None:
    """Return the difference over common seeds with its 95% t-interval; None without common seeds."""
    seeds = sorted(table.get(arm, {}).keys() & table.get(against, {}).keys())
    if not seeds:
        return None
    differences = np.array([table[arm][seed] - table[against][seed] for seed in seeds])
    mean, count = float(differences.mean()), len(seeds)
    if count < 2:
        return Difference(arm, against, count, mean, math.nan, math.nan)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1) * differences.std(ddof=1) / math.sqrt(count))
    return Difference(arm, against, count, mean, mean - half, mean + half)


def write_tables(results: Sequence[Result], out: Path) -> None:
    """Write table.md, table.csv and table.png."""
    plan = json.loads((out / PLAN).read_text(encoding="utf-8"))
    write_whole(out / "table.md", markdown(results, plan))
    write_whole(out / "table.csv", results_csv(results))
    draw(results, out / "table.png")


def markdown(results: Sequence[Result], plan: dict[str, Any]) -> str:
    """Return the table, the guidance against its controls, and what may be concluded."""
    recipe = plan["recipe"]
    lines = [
        f"# {plan['dataset']}: {recipe['network']['backbone']}, recipe `{recipe['name']}`",
        "",
        f"{recipe['optim']['epochs']} epochs, {recipe['data']['input_size']} px, one recipe for all arms; top-1 on "
        f"the whole test part in %, mean ± standard deviation over seeds; differences against {BASELINE} are paired "
        f"by seed, with a {CONFIDENCE:.0%} t-interval.",
        "",
        f"| arm | seeds | top-1 | held-out top-1 | ECE | pointing game | − {BASELINE} | {CONFIDENCE:.0%} interval | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    table = by_arm(results, "top1")
    lines += [_row(results, table, arm) for arm in table]
    against = [name for name in CONTROLS if name in table]
    if "guided" in table and against:
        lines += ["", "**The guidance against its controls** (top-1, paired by seed):", ""]
        lines += ["| guided − | seeds | difference | interval | |", "|---|---|---|---|---|"]
        for name in against:
            if found := paired_difference(table, "guided", name):
                lines.append(f"| {name} | {found.pairs} | {_cells(found)} |")
    gaussian = [result["centred_gaussian"] for result in results if "centred_gaussian" in result]
    if gaussian:
        lines += ["", f"Pointing game of a centred Gaussian, which sees nothing: {100 * np.mean(gaussian):.1f}."]
    for result in results:
        if "diverged" in result:
            lines += ["", f"{result['arm']}, seed {result['seed']}: {result['diverged']}"]
    return "\n".join([*lines, "", conclusion(table), ""])


def conclusion(table: dict[str, dict[int, float]]) -> str:
    """Return, in one paragraph, which differences were shown and which were not."""
    sentences = []
    for arm in table:
        found = paired_difference(table, arm, BASELINE) if arm != BASELINE else None
        if found is None:
            continue
        words = f"{arm} − {BASELINE}: {100 * found.mean:+.2f} points"
        if found.pairs < 2:
            sentences.append(f"{words} with one seed, which shows nothing.")
        elif found.low <= 0 <= found.high:
            sentences.append(f"{words}; the interval contains zero, so no difference is shown.")
        else:
            sentences.append(f"{words}; the interval excludes zero.")
    return " ".join(sentences) or f"There is no arm beside {BASELINE} to compare."


def results_csv(results: Sequence[Result]) -> str:
    """Return one line a run with every figure."""
    columns = list(dict.fromkeys(name for result in results for name in result))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(results)
    return text.getvalue()


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw every run as a point, and each arm's difference against plain with its interval."""
    from matplotlib.figure import Figure

    table = by_arm(results, "top1")
    arms = list(table)
    figure = Figure(figsize=(11, 1.2 + 0.42 * len(arms)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for row, arm in enumerate(arms):
        values = [100 * value for value in table[arm].values()]
        left.plot(values, [row] * len(values), "o", color="#7a8ca3", alpha=0.8)
        if values:
            left.plot(np.mean(values), row, "|", color="#12355b", markersize=18, markeredgewidth=2.5)
        found = paired_difference(table, arm, BASELINE) if arm != BASELINE else None
        if found is not None:
            error = 0.0 if math.isnan(found.low) else 100 * (found.high - found.mean)
            shown = found.pairs > 1 and not found.low <= 0 <= found.high
            right.errorbar(
                100 * found.mean, row, xerr=error, fmt="o", capsize=4, color="#c1440e" if shown else "#7a8ca3"
            )
    right.axvline(0, color="black", linewidth=0.8)
    left.set(yticks=range(len(arms)), yticklabels=arms, xlabel="top-1, % (every run, and the mean)")
    left.invert_yaxis()
    right.set_xlabel(f"top-1 − {BASELINE}, points ({CONFIDENCE:.0%} interval; grey: contains zero)")
    for panel in (left, right):
        panel.grid(axis="x", alpha=0.3)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)


def _row(results: Sequence[Result], table: dict[str, dict[int, float]], arm: str) -> str:
    cells = [arm, str(len(table[arm])), _mean_and_deviation(table[arm])]
    others = ("held_out_top1", "ece", "pointing_game")
    cells += [_mean_and_deviation(by_arm(results, metric).get(arm, {})) for metric in others]
    found = paired_difference(table, arm, BASELINE) if arm != BASELINE else None
    return f"| {' | '.join(cells)} | {_cells(found) if found else ' | | '} |"


def _cells(found: Difference) -> str:
    interval = "" if math.isnan(found.low) else f"{100 * found.low:+.2f} … {100 * found.high:+.2f}"
    return f"{100 * found.mean:+.2f} | {interval} | {found.verdict()}"


def _mean_and_deviation(values: dict[int, float]) -> str:
    if not values:
        return "–"
    numbers = 100 * np.array(list(values.values()))
    return f"{numbers.mean():.1f}" + (f" ± {numbers.std(ddof=1):.1f}" if len(numbers) > 1 else "")


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
    dataset = load_dataset(comparison.data, comparison.kind)
    return run_one(comparison, dataset, arm, seed, None if ends is None else ends - time.time())


def _fill_stores(comparison: Comparison) -> None:
    from training.data.batches import served_photos, training_photos
    from training.data.datasets import hold_out

    dataset, data = load_dataset(comparison.data, comparison.kind), comparison.recipe.data
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
