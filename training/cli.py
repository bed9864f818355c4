"""`fieldmark-train`: fit, evaluate, export, compare, summary."""

import argparse
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

from training.config import Recipe, load_recipe, parse_change, recipe_names
from training.errors import TrainingError

INTERRUPTED = 130
"""Exit status after Ctrl-C, as a shell would say it."""
UNFINISHED = 75
"""Exit status when the time budget ended first (EX_TEMPFAIL: run the same command again)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options)
    except (TrainingError, URLError, ValueError) as error:
        _say(f"fieldmark-train {options.name}: {error}")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def fit_command(options: argparse.Namespace) -> int:
    """Train, or go on training."""
    from training.datasets import load_dataset
    from training.loop import Job, fit

    recipe = _recipe(options)
    dataset = load_dataset(options.data, options.dataset)
    for notice in dataset.notices:
        _say(f"note: {notice}")
    outcome = fit(
        Job(
            recipe=recipe,
            dataset=dataset,
            out=options.out,
            weights=_weights(options.weights),
            cache=_cache(options),
            device=options.device,
            workers=_workers(options),
            fresh=options.fresh,
            time_budget_s=options.time_budget_s,
            visible=not options.quiet,
            commit=_commit(),
        )
    )
    result: dict[str, Any] = {"run": str(options.out), "finished": outcome.finished, "epochs": outcome.epoch}
    result |= {f"held_out_{name}": value for name, value in outcome.metrics.items()}
    _print(result, options.json)
    if outcome.finished:
        return 0
    _say(f"stopped after epoch {outcome.epoch}; the same command goes on")
    return INTERRUPTED if outcome.interrupted else UNFINISHED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fieldmark-train",
        description="Trains, judges and exports fine-grained classifiers that show their attention.",
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    fit = _command(commands, "fit", fit_command, "train a network, or go on with an interrupted run")
    _data_options(fit, required=True)
    _recipe_options(fit)
    _run_options(fit)
    fit.add_argument("--attention", metavar="ARM", help="arm of the comparison, e.g. plain, se, cbam, guided")
    fit.add_argument("--seed", type=int, help="of weights, order and augmentation (default: the recipe's)")
    fit.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run; a run there goes on")
    fit.add_argument("--fresh", action="store_true", help="start anew even where the folder holds a run")
    return parser


def _command(commands: Any, name: str, function: Any, purpose: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=purpose, description=purpose.capitalize() + ".")
    parser.set_defaults(command=function)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    return parser


def _data_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument("--data", type=Path, required=required, metavar="DIR", help="folder of the data set")
    parser.add_argument(
        "--dataset",
        choices=("auto", "cub", "cars", "aircraft", "folder"),
        default="auto",
        help="its kind; `folder` is class folders or labels.csv (default: look at the files)",
    )


def _recipe_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", default="quick-cpu", metavar="NAME|FILE", help=f"a .toml file, or {', '.join(recipe_names())}"
    )
    parser.add_argument("--backbone", metavar="NAME", help="torchvision's name (default: the recipe's)")
    parser.add_argument(
        "--weights",
        default="imagenet",
        metavar="FILE",
        help="of the backbone: a file, `imagenet` (torchvision's) or `none`",
    )
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change one value of the recipe"
    )


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--workers", type=int, help="processes that vary images (default: one a core, at most 16)")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="of decoded photos (default: FIELDMARK_CACHE)")
    parser.add_argument("--time-budget-s", type=float, help="stop cleanly after so long; the same command goes on")


def _recipe(options: argparse.Namespace) -> Recipe:
    """Return the recipe with everything the command line changes."""
    from training.arms import apply_arm

    recipe = load_recipe(options.recipe).with_values(dict(map(parse_change, options.set)))
    changes = {
        "network.backbone": options.backbone,
        "optim.epochs": options.epochs,
        "seed": getattr(options, "seed", None),
    }
    recipe = recipe.with_values({name: value for name, value in changes.items() if value is not None})
    arm = getattr(options, "attention", None)
    return apply_arm(recipe, arm) if arm else recipe


def _weights(text: str) -> Literal["imagenet"] | Path | None:
    if text == "none":
        return None
    return "imagenet" if text == "imagenet" else Path(text)


def _workers(options: argparse.Namespace) -> int:
    if options.workers is not None:
        return max(0, int(options.workers))
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _cache(options: argparse.Namespace) -> Path:
    from training.store import cache_folder

    return options.cache or cache_folder()


def _commit() -> str:
    """Return the commit of this project: `FIELDMARK_COMMIT`, else what git says, else `unknown`."""
    if commit := os.environ.get("FIELDMARK_COMMIT"):
        return commit
    try:
        done = subprocess.run(  # noqa: S603  # fixed words
            ["git", "rev-parse", "HEAD"],  # noqa: S607  # whichever git the user has
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def _print(result: dict[str, Any], as_json: bool) -> None:
    """Print a result on stdout, for a program or for a person."""
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
        return
    width = max(map(len, result), default=0)
    for name, value in result.items():
        sys.stdout.write(f"{name:<{width}}  {f'{value:.4f}' if isinstance(value, float) else value}\n")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
