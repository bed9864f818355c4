"""What `fieldmark-train compare` does beside its runs: their list, several folders in one table, what it prints."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.files import check_folder
from training.arms import apply_arm
from training.errors import TrainingError
from training.grid import GridRun, Setting, read_grid
from training.options import recipe_of
from training.printing import print_result


def listed(options: argparse.Namespace) -> list[GridRun]:
    """Return the runs of the grid, or of the options' arms and seeds; arms are checked before photos are read."""
    data = None if options.data is None else str(options.data)
    if options.grid:
        listed = read_grid(options.grid, data)
    elif data is None:
        raise TrainingError("give --data DIR, --grid FILE.toml or --merge OUT…")
    else:
        setting = Setting("", data, None, {})
        arms = [name.strip() for name in options.arms.split(",")]
        listed = [GridRun(setting, arm, int(seed)) for seed in options.seeds.split(",") for arm in arms]
    recipe = recipe_of(options)
    for one in listed:
        apply_arm(recipe.with_values(one.setting.changes), one.arm)
    return listed


def print_list(lines: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Print the numbered runs of a grid."""
    if as_json:
        print_result({"runs": list(lines)}, as_json=True)
        return
    for line in lines:
        name = f"{line['comparison']}  " if line["comparison"] else ""
        sys.stdout.write(f"{line['number']:>4}  {name}{line['arm']}  seed {line['seed']}\n")


def merge(options: argparse.Namespace) -> int:
    """Write one table of the folders, or one for each comparison of a grid."""
    from training.results import PLAN, merge_all
    from training.table import write_tables

    check_folder(options.out)
    if [*options.out.glob(PLAN), *options.out.glob(f"*/{PLAN}")]:
        raise TrainingError(f"{options.out} holds a comparison itself: take another --out")
    tables = merge_all(options.merge)
    for name, runs in tables.items():
        (options.out / name).mkdir(parents=True, exist_ok=True)
        write_tables(runs, options.out / name)
    print_tables([options.out / name for name in tables], options)
    return 0


def print_tables(folders: Sequence[Path], options: argparse.Namespace, **facts: Any) -> None:
    """Print the tables that lie in folders; with names, unless it is that of the one comparison in --out."""
    if not options.json:
        tables = (folder / "table.md" for folder in dict.fromkeys(folders))
        sys.stdout.write("\n".join(path.read_text(encoding="utf-8") for path in tables if path.is_file()))
        return
    empty: dict[str, Any] = {"results": [], "top1": {}, "pairs": []}
    contents = {}
    for folder in dict.fromkeys(folders):
        path = folder / "table.json"
        contents[folder] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else empty
    named = {"comparisons": {folder.name: content for folder, content in contents.items()}}
    print_result({**facts, **contents.get(options.out, named)}, as_json=True)
