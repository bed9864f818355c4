"""The folder of a comparison: its plan, the result of each run, the runs' predictions; and several folders as one."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.files import write_whole
from training.errors import CheckpointError
from training.predictions import PREDICTIONS, Predictions, read_predictions

RESULT = "result.json"
PLAN = "compare.json"
SAME = {
    "recipe": "another recipe",
    "dataset": "another data set",
    "weights": "other weights",
    "labels": "another list of classes",
    "photos": "other test photos",
}
"""What all runs of a comparison share → what is said where it differs."""
OF_THE_MACHINE = ("seconds_of_last_piece", "device")

Result = dict[str, Any]
"""Of one run: arm, seed and figures by name; a figure is a number, or an object with `value`, `low`, `high`, `n`."""
Plan = dict[str, Any]
"""Of a comparison: recipe, name of the data set, weights, digests of the classes and of the test photos, arms."""


@dataclass(frozen=True)
class Runs:
    """The runs of a comparison that are done.

    Attributes:
        plan: of the comparison.
        results: in the order of arms and seeds.
        predictions: of (arm, seed); runs of older versions have none.
    """

    plan: Plan
    results: list[Result]
    predictions: dict[tuple[str, int], Predictions] = field(default_factory=dict)

    def by_photo(self, metric: str) -> dict[str, dict[int, npt.NDArray[np.floating]]]:
        """Return arm → seed → a value a photo, (n,), the same photos in the same order, of the runs that have it."""
        found: dict[str, dict[int, npt.NDArray[np.floating]]] = {}
        for (arm, seed), predictions in self.predictions.items():
            if (values := predictions.values(metric)) is not None:
                found.setdefault(arm, {})[seed] = values
        return found


def run_folder(out: Path, arm: str, seed: int) -> Path:
    """Return the folder of one run."""
    return out / arm / f"seed-{seed}"


def number(figure: Any) -> float:
    """Return the value of a figure, with or without its interval; NaN where it is null."""
    value = figure["value"] if isinstance(figure, dict) else figure
    return float("nan") if value is None else float(value)


def by_arm(results: Iterable[Result], metric: str) -> dict[str, dict[int, float]]:
    """Return arm → seed → value of a metric; runs that diverged have none."""
    table: dict[str, dict[int, float]] = {}
    for result in results:
        values = table.setdefault(result["arm"], {})
        if metric in result:
            values[result["seed"]] = number(result[metric])
    return table


def agree_on_plan(out: Path, plan: Plan) -> None:
    """Write the plan into the folder; if it holds one, check that it is the same but for arms, and add these.

    Raises:
        CheckpointError: the folder holds another comparison.
    """
    if (out / PLAN).is_file():
        old = read_plan(out)
        if different := difference(plan, old):
            raise CheckpointError(f"{out} holds a comparison with {different}: take another --out")
        plan = {**old, **plan, "arms": list(dict.fromkeys([*old["arms"], *plan["arms"]]))}
    write_whole(out / PLAN, json.dumps(plan, indent=2) + "\n")


def difference(plan: Plan, other: Plan) -> str | None:
    """Return how the other plan differs in what runs must share; None: it does not, or one of them does not know."""
    for key, words in SAME.items():
        if key in plan and key in other and plan[key] != other[key]:
            shown = next(_changes(other[key], plan[key])) if key in ("recipe", "dataset", "weights") else ""
            return words + shown
    return None


def _changes(here: Any, there: Any, name: str = "") -> Iterator[str]:
    """Return, of two unequal values, the first place where they differ, as words."""
    if isinstance(here, dict) and isinstance(there, dict):
        for key in {**here, **there}:
            if here.get(key) != there.get(key):
                yield from _changes(here.get(key), there.get(key), f"{name}.{key}" if name else key)
    else:
        yield f" ({f'{name} ' if name else ''}{json.dumps(here)}, not {json.dumps(there)})"


def write_result(folder: Path, result: Result) -> None:
    """Write the result of a run, by which it counts as done."""
    write_whole(folder / RESULT, json.dumps(result, indent=2) + "\n")


def read_plan(out: Path) -> Plan:
    """Read the plan of a comparison.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if not (out / PLAN).is_file():
        raise CheckpointError(f"{out} holds no comparison: {PLAN} is missing")
    plan = _read_object(out / PLAN)
    if missing := {"recipe", "dataset", "weights", "arms"} - plan.keys():
        raise CheckpointError(f"{out / PLAN} is damaged: {', '.join(sorted(missing))} missing")
    return plan


def read_results(out: Path) -> list[Result]:
    """Return the results so far, in the order of arms and seeds."""
    return _ordered([_read_object(path) for path in sorted(out.glob(f"*/seed-*/{RESULT}"))], read_plan(out))


def read_runs(out: Path) -> Runs:
    """Read the runs so far with their predictions, and check that these belong to them.

    Raises:
        CheckpointError: a file is damaged, or predictions are of another model or of other photos.
    """
    plan, results, predictions = read_plan(out), read_results(out), {}
    for result in results:
        folder = run_folder(out, result["arm"], result["seed"])
        found = read_predictions(folder)
        if found is None:
            continue
        if result.get("predictions") != found.digest:
            raise CheckpointError(f"{folder / PREDICTIONS} is of another model than {RESULT} beside it")
        for key, digest in (("labels", found.classes), ("photos", found.of_photos)):
            if plan.setdefault(key, digest) != digest:
                raise CheckpointError(f"{folder / PREDICTIONS} is of {SAME[key]} than the comparison in {out}")
        predictions[result["arm"], result["seed"]] = found
    return Runs(plan, results, predictions)


def merge(folders: Sequence[Path]) -> Runs:
    """Return the runs of several folders of the same comparison as one; a run that is in two of them counts once.

    Raises:
        CheckpointError: they differ in recipe, data, weights or classes, or hold different results of the same run.
    """
    merged = read_runs(folders[0])
    plan, predictions = merged.plan, dict(merged.predictions)
    runs = {(result["arm"], result["seed"]): (folders[0], result) for result in merged.results}
    for folder in folders[1:]:
        more = read_runs(folder)
        if different := difference(plan, more.plan):
            raise CheckpointError(f"{folder} cannot be merged with {folders[0]}: {different}")
        plan = {**more.plan, **plan, "arms": list(dict.fromkeys([*plan["arms"], *more.plan["arms"]]))}
        for result in more.results:
            key = result["arm"], result["seed"]
            first, known = runs.setdefault(key, (folder, result))
            if _content(known) != _content(result):
                raise CheckpointError(f"{key[0]}, seed {key[1]}, is in {first} and in {folder} with different results")
            if key in more.predictions:
                predictions.setdefault(key, more.predictions[key])
    return Runs(plan, _ordered([result for _, result in runs.values()], plan), predictions)


def merge_all(folders: Sequence[Path]) -> dict[str, Runs]:
    """Return the merged comparisons by name; "" where each folder is one.

    Raises:
        CheckpointError: as `merge`; or one folder is a comparison, and another holds a grid of them.
    """
    named: dict[str, list[Path]] = {}
    for folder in folders:
        for name, found in comparisons_in(folder).items():
            named.setdefault(name, []).append(found)
    if len(named) > 1 and "" in named:
        raise CheckpointError(f"{named[''][0]} is one comparison, and another folder holds a grid of them")
    return {name: merge(same) for name, same in named.items()}


def comparisons_in(folder: Path) -> dict[str, Path]:
    """Return the comparisons in a folder by name: those of a grid, or one without a name, the folder itself.

    Raises:
        CheckpointError: there is none.
    """
    if (folder / PLAN).is_file():
        return {"": folder}
    found = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{PLAN}"))}
    if not found:
        raise CheckpointError(f"{folder} holds no comparison: {PLAN} is missing")
    return found


def _content(result: Result) -> Any:
    """Return what makes two results of one arm and seed the same."""
    return result.get("predictions") or {key: value for key, value in result.items() if key not in OF_THE_MACHINE}


def _ordered(results: Iterable[Result], plan: Mapping[str, Any]) -> list[Result]:
    order = {arm: index for index, arm in enumerate(plan["arms"])}
    return sorted(results, key=lambda result: (order.get(result["arm"], len(order)), result["seed"]))


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is damaged: not an object")
    return values
