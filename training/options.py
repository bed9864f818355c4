"""The options of `fieldmark-train`, and what they mean."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from model.terminal import Parser
from training.arms import ARMS, apply_arm
from training.data.samples import Dataset
from training.errors import TrainingError
from training.recipe import Recipe, load_recipe, parse_change, recipe_names

Command = Callable[[argparse.Namespace], int]
"""From its options to its exit status."""
COMPARED = "plain,se,cbam,spatial,mixed,unguided,guided,guided-uniform,guided-shuffled"


def build_parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """Return the parser; it sets `command` to what is to be called with the options.

    Args:
        commands: name → function, for `fit`, `evaluate`, `export`, `compare` and `summary`.
    """
    parser = Parser(
        prog="fieldmark-train",
        description="Trains, judges and exports fine-grained classifiers that show their attention.",
    )
    added = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")
    for name, (purpose, add_options) in OPTIONS.items():
        add_options(_command(added, name, commands[name], purpose))
    return parser


def _fit_options(parser: argparse.ArgumentParser) -> None:
    _data_options(parser, required=True)
    _recipe_options(parser)
    _run_options(parser)
    parser.add_argument("--attention", metavar="ARM", help="arm of the comparison, e.g. plain, se, cbam, guided")
    parser.add_argument("--seed", type=int, help="of weights, order and augmentation (default: the recipe's)")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run; a run there goes on")
    parser.add_argument("--fresh", action="store_true", help="start anew even where the folder holds a run")


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="RUN|FILE.onnx")
    _data_options(parser, required=True)
    parser.add_argument("--part", choices=("test", "held-out", "all"), default="test", help="of the data set")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write figures, predictions and a report there")
    parser.add_argument(
        "--faithfulness", type=int, default=0, metavar="N", help="measure insertion and deletion on N photos, too"
    )
    parser.add_argument("--device", default="auto", help="of a run: auto, cpu, cuda or cuda:N")
    parser.add_argument("--workers", type=int, help="processes that decode photos (default: one a core, at most 16)")


def _export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, nargs="?", metavar="RUN|FILE.onnx")
    _data_options(parser, required=False)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.onnx")
    parser.add_argument("--name", dest="name_of_model", help="of the model (default: the run's folder)")
    parser.add_argument("--weights-dtype", choices=("fp16", "fp32"), default="fp16", help="in which weights are stored")
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="of the arithmetic; smaller ones need --data",
    )
    parser.add_argument("--torchvision", metavar="NAME", help="instead of a run: one of torchvision's classifiers")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="its whole state dict")
    parser.add_argument(
        "--build",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what its state dict does not say, an argument of its constructor, e.g. transform_input=true",
    )
    parser.add_argument(
        "--layer", metavar="PATH", help="its module to explain, e.g. layer4; several by comma, last first"
    )
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="its classes, one a line, in the order of the logits"
    )
    parser.add_argument("--size", type=int, default=224, help="its input, pixels (default: 224)")
    parser.add_argument("--resize", type=int, help="shorter side before the crop, pixels (default: 8/7 of the size)")
    parser.add_argument("--mean", type=float, nargs=3, default=(0.485, 0.456, 0.406), help="its normalisation, RGB")
    parser.add_argument("--std", type=float, nargs=3, default=(0.229, 0.224, 0.225), help="likewise")
    parser.add_argument("--temperature", type=float, help="of the probabilities, instead of the fitted one")


def _compare_options(parser: argparse.ArgumentParser) -> None:
    _data_options(parser, required=False)
    _recipe_options(parser)
    _run_options(parser)
    parser.add_argument("--arms", default=COMPARED, help=f"by comma (default: {COMPARED}; all: {', '.join(ARMS)})")
    parser.add_argument("--seeds", default="0,1,2", help="by comma (default: 0,1,2)")
    parser.add_argument(
        "--jobs",
        type=_jobs,
        default=1,
        metavar="N|auto",
        help="runs at the same time, spread over the GPUs; auto: one a GPU, or one on the CPU (default: 1)",
    )
    parser.add_argument(
        "--grid",
        type=Path,
        metavar="FILE.toml",
        help="several comparisons instead: data, backbones, arms, seeds, lambda",
    )
    parser.add_argument(
        "--index", type=_index, default=(1, 1), metavar="I/N", help="do every N-th run from the I-th (of N machines)"
    )
    parser.add_argument("--list", action="store_true", help="print the numbered runs and do none")
    parser.add_argument(
        "--merge", type=Path, nargs="+", metavar="OUT", help="train nothing: one table of these folders, into --out"
    )
    parser.add_argument("--keep-weights", action="store_true", help="keep the selected weights of finished runs")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the comparison; one there goes on")


def _jobs(text: str) -> int | None:
    """Return the number of runs at the same time; None: one a GPU."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a number from 1")
    return int(text)


def _index(text: str) -> tuple[int, int]:
    """Return which share of the runs, and of how many, both counted from 1."""
    index, _, of = text.partition("/")
    if not (index.isdecimal() and of.isdecimal() and 1 <= int(index) <= int(of)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 1/4 up to 4/4")
    return int(index), int(of)


def _summary_options(parser: argparse.ArgumentParser) -> None:
    _recipe_options(parser)
    parser.add_argument("--classes", type=int, default=200, help="of the head (default: 200)")


def _command(added: Any, name: str, command: Command, purpose: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = added.add_parser(name, help=purpose, description=purpose.capitalize() + ".")
    parser.set_defaults(command=command)
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
    parser.add_argument(
        "--layout",
        default="auto",
        metavar="LAYOUT",
        help="of folders: `classes`, or train=FOLDER,test=FOLDER (default: by their names and contents)",
    )
    parser.add_argument("--skip-damaged", action="store_true", help="leave damaged photos out instead of stopping")


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


def recipe_of(options: argparse.Namespace) -> Recipe:
    """Return the recipe with everything the command line changes."""
    recipe = load_recipe(options.recipe).with_values(dict(map(parse_change, options.set)))
    changes = {
        "network.backbone": options.backbone,
        "optim.epochs": options.epochs,
        "seed": getattr(options, "seed", None),
    }
    recipe = recipe.with_values({name: value for name, value in changes.items() if value is not None})
    arm = getattr(options, "attention", None)
    return apply_arm(recipe, arm) if arm else recipe


def weights_of(text: str) -> Literal["imagenet"] | Path | None:
    """Return the backbone's weights at the start: a file, torchvision's, or none."""
    if text == "none":
        return None
    return "imagenet" if text == "imagenet" else Path(text)


def build_of(options: argparse.Namespace) -> dict[str, object]:
    """Return the arguments of a constructor; values are JSON, such as `true` or `[false,true,true]`.

    Raises:
        TrainingError: one of them is not.
    """
    build = {}
    for text in options.build:
        key, _, value = text.partition("=")
        try:
            build[key] = json.loads(value)
        except ValueError as error:
            raise TrainingError(f"--build {text}: wanted KEY=VALUE, the value as JSON, such as true") from error
    return build


def workers_of(options: argparse.Namespace) -> int:
    """Return how many processes vary or decode images: one a core, at most 16, unless the options say so."""
    if options.workers is not None:
        return max(0, int(options.workers))
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def dataset_of(options: argparse.Namespace) -> Dataset:
    """Return the data set that the options name, looked at photo by photo, and say what is odd about it."""
    from training.data.check import examine
    from training.data.datasets import load_dataset

    dataset = load_dataset(options.data, options.dataset, options.layout)
    dataset = examine(dataset, cache_of(options), skip_damaged=options.skip_damaged, progress=not options.quiet)
    for notice in dataset.notices:
        sys.stderr.write(f"note: {notice}\n")
    return dataset


def cache_of(options: argparse.Namespace) -> Path:
    """Return the folder of decoded photos."""
    from training.data.store import cache_folder

    return getattr(options, "cache", None) or cache_folder()


def project_commit() -> str:
    """Return the commit of this project: `FIELDMARK_COMMIT`, else what git says, else `unknown`."""
    if commit := os.environ.get("FIELDMARK_COMMIT"):
        return commit
    try:
        done = subprocess.run(
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


OPTIONS: Mapping[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "fit": ("train a network, or go on with an interrupted run", _fit_options),
    "evaluate": ("judge a run or an exported file on every test image", _evaluate_options),
    "export": ("write one .onnx file, gradient inside, checked against torch", _export_options),
    "compare": ("train arms × seeds under one recipe and write the table", _compare_options),
    "summary": ("print parameters, multiply-adds and memory of every arm", _summary_options),
}
"""Name of a command → what it does, and what adds its options."""
