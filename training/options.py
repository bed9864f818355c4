"""The options of `fieldmark-train`, and the recipe, data set and folders they select."""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from model.completion import completion
from model.terminal import Parser
from training.arms import ARMS, apply_arm
from training.data.samples import Dataset
from training.errors import TrainingError
from training.recipe import Recipe, load_recipe, parse_change, recipe_names

COMPARED = "plain,se,cbam,spatial,mixed,unguided,guided,guided-uniform,guided-shuffled"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; it sets `name` to the command's."""
    parser = Parser(
        prog="fieldmark-train",
        description="Trains, evaluates and exports fine-grained classifiers that show their attention.",
    )
    added = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")
    for name, (purpose, add_options) in OPTIONS.items():
        command = added.add_parser(name, help=purpose, description=purpose.capitalize() + ".")
        command.add_argument("--json", action="store_true", help="print the result as JSON")
        command.add_argument("--quiet", action="store_true", help="show no progress")
        add_options(command)
    return parser


def _fit_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _data_options(parser, required=True)
    _recipe_options(parser)
    _run_options(parser)
    add("--attention", metavar="ARM", help="arm of the comparison, e.g. plain, se, cbam, guided")
    add("--seed", type=int, help="of weights, order and augmentation (default: the recipe's)")
    add("--out", type=Path, required=True, metavar="RUN", help="folder of the run; a run in it is resumed")
    add("--fresh", action="store_true", help="start over even if the folder holds a run")
    add(
        "--folds",
        type=_folds,
        metavar="K",
        help="train K networks, each without a K-th of the photos, then one on all photos to its last epoch, "
        "calibrated and measured by the K; a class needs two photos",
    )


def _folds(text: str) -> int:
    """Return a number of folds, 2 or more."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of folds from 2")
    return int(text)


def _count(text: str) -> int:
    """Return a number of photos, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of photos")
    return int(text)


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, nargs="?", metavar="RUN|FILE.onnx")
    _data_options(parser, required=False)
    add(
        "--feedback",
        type=Path,
        metavar="FILE",
        help="instead of evaluating a model: what users said of a service's answers, as `fieldmark serve "
        "--feedback-file FILE` wrote it",
    )
    add("--part", choices=("test", "held-out", "all"), default="test", help="of the data set")
    add("--out", type=Path, metavar="DIR", help="write figures, predictions and a report into this folder")
    add("--card", type=Path, metavar="FILE", help="write a summary into this model card")
    add(
        "--faithfulness",
        type=_count,
        default=0,
        metavar="N",
        help="also measure on N photos what the class loses without the places that the maps name",
    )
    add(
        "--sanity",
        type=_count,
        default=0,
        metavar="N",
        help="also measure on N photos how the maps change as layers get random weights",
    )
    add(
        "--blur",
        type=_count,
        default=0,
        metavar="N",
        help="also measure on N photos what is lost when the place of a mark is blurred",
    )
    add(
        "--unknown",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="also measure how well novelty distinguishes the photos in this folder, of what the model does not know; "
        "may be repeated",
    )
    add(
        "--placings",
        type=_count,
        default=0,
        metavar="N",
        help="also measure a file's maps placed evenly, by its cells' centres, and where these look on N photos",
    )
    _device_options(parser)


def _export_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, nargs="?", metavar="RUN|FILE.onnx")
    _data_options(parser, required=False)
    add("--out", type=Path, required=True, metavar="FILE.onnx")
    add("--name", dest="name_of_model", help="of the model (default: the run's folder)")
    add("--weights-dtype", choices=("fp16", "fp32"), default="fp16", help="in which weights are stored")
    add(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="of the arithmetic; smaller ones need --data",
    )
    add("--torchvision", metavar="NAME", help="instead of a run: one of torchvision's classifiers")
    add("--weights", type=Path, metavar="FILE", help="its whole state dict")
    add(
        "--build",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="argument of its constructor that its state dict lacks, e.g. transform_input=true",
    )
    add("--layer", metavar="PATH", help="its module to explain, e.g. layer4; several by comma, last first")
    add("--labels", type=Path, metavar="FILE", help="its classes, one a line, in the order of the logits")
    add("--size", type=int, default=224, help="its input, pixels (default: 224)")
    add("--resize", type=int, help="shorter side before the crop, pixels (default: 8/7 of the size)")
    add("--mean", type=float, nargs=3, default=(0.485, 0.456, 0.406), help="its normalisation, RGB")
    add("--std", type=float, nargs=3, default=(0.229, 0.224, 0.225), help="likewise")
    add("--temperature", type=float, help="of the probabilities, instead of the fitted one")
    add(
        "--mark-maps",
        choices=("weights", "contributions"),
        help="where a mark's part is read, or what each place adds to the mark (default: as it is, else weights)",
    )
    add(
        "--placing",
        choices=("evenly", "centres"),
        help="how class maps are laid on the photo: evenly, or by their cells' centres; `evaluate --placings` measures "
        "both (default: as it is, else evenly)",
    )
    add(
        "--missing",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether typical marks that are not seen may be called missing; `evaluate --blur` measures whether marks "
        "are seen (default: as it is, else not)",
    )
    add(
        "--taxonomy",
        type=Path,
        metavar="FILE.csv",
        help="to which taxa its classes belong: columns class, genus, family … (default: as it is, or was beside the "
        "data)",
    )


def _compare_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _data_options(parser, required=False)
    _recipe_options(parser)
    _run_options(parser)
    add("--arms", default=COMPARED, help=f"by comma (default: {COMPARED}; all: {', '.join(ARMS)})")
    add("--seeds", default="0,1,2", help="by comma (default: 0,1,2)")
    add(
        "--jobs", type=_jobs, default=1, metavar="N|auto", help="parallel runs, spread over the GPUs; auto: one per GPU"
    )
    add("--grid", type=Path, metavar="FILE.toml", help="several comparisons: data, backbones, arms, seeds, lambda")
    add("--index", type=_index, default=(1, 1), metavar="I/N", help="do every N-th run from the I-th (of N machines)")
    add("--list", action="store_true", help="print the numbered runs and do none")
    add("--merge", type=Path, nargs="+", metavar="OUT", help="train nothing: one table of these folders, into --out")
    add("--keep-weights", action="store_true", help="keep the selected weights of finished runs")
    add("--out", type=Path, required=True, metavar="DIR", help="of the comparison; one in it is resumed")


def _jobs(text: str) -> int | None:
    """Return the number of parallel runs; None: one per GPU."""
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
    add = parser.add_argument
    _recipe_options(parser)
    add("--classes", type=int, default=200, help="of the head (default: 200)")


def _recipes_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", nargs="?", metavar="NAME|FILE", help="print every key of this recipe with its meaning"
    )


def _no_options(parser: argparse.ArgumentParser) -> None:
    """Add none."""


def _data_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    add = parser.add_argument
    add("--data", type=Path, required=required, metavar="DIR", help="folder of the data set")
    add(
        "--dataset",
        choices=("auto", "cub", "cars", "aircraft", "folder"),
        default="auto",
        help="`folder`: class folders or labels.csv (default: recognised by its files)",
    )
    add(
        "--layout",
        default="auto",
        metavar="LAYOUT",
        help="of folders: `classes`, or train=FOLDER,test=FOLDER (default: by their names and contents)",
    )
    add("--skip-damaged", action="store_true", help="leave damaged photos out instead of stopping")


def _recipe_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--recipe", default="quick-cpu", metavar="NAME|FILE", help=f"a .toml file, or {', '.join(recipe_names())}")
    add("--backbone", metavar="NAME", help="torchvision's name (default: the recipe's)")
    add(
        "--weights",
        type=weights_of,
        default="imagenet",
        metavar="FILE|RUN",
        help="of the backbone: a file, another run (other classes too), `imagenet` (torchvision's) or `none`",
    )
    add("--epochs", type=int, help="instead of the recipe's")
    add("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change one value of the recipe")


def _run_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _device_options(parser)
    add("--cache", type=Path, metavar="DIR", help="of decoded photos (default: FIELDMARK_CACHE)")
    add("--time-budget-s", type=float, help="stop cleanly after so many seconds; the same command resumes")


def _device_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--workers", type=int, help="processes that prepare photos (default: one a core, at most 16)")


def recipe_of(options: argparse.Namespace) -> Recipe:
    """Return the recipe with the changes of the command line."""
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
            raise TrainingError(f"--build {text}: expected KEY=VALUE, the value as JSON, such as true") from error
    return build


def workers_of(options: argparse.Namespace) -> int:
    """Return the number of processes that vary or decode images: `--workers`, else one a core, at most 16."""
    if options.workers is not None:
        return max(0, int(options.workers))
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def data_words(options: argparse.Namespace) -> str:
    """Return the options that name the data set and say how it is read, as they are typed, without `--data`."""
    given = [str(options.data)]
    for name in ("dataset", "layout"):
        if (value := getattr(options, name)) not in (None, "auto"):
            given += [f"--{name}", str(value)]
    return shlex.join([*given, *(["--skip-damaged"] if options.skip_damaged else [])])


def dataset_of(options: argparse.Namespace) -> Dataset:
    """Return the data set that the options name, every photo checked, and report its notices."""
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
    """Return the commit of fieldmark: `FIELDMARK_COMMIT`, else from git, else `unknown`."""
    if commit := os.environ.get("FIELDMARK_COMMIT"):
        return commit
    command = ["git", "rev-parse", "HEAD"]
    folder = Path(__file__).parent
    try:
        return subprocess.check_output(command, cwd=folder, stderr=subprocess.DEVNULL, text=True, timeout=10).strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def completion_command(_: argparse.Namespace) -> int:
    """Print a script that completes commands and options."""
    sys.stdout.write(completion(build_parser()))
    return 0


OPTIONS: Mapping[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "fit": ("train a network, or resume an interrupted run", _fit_options),
    "evaluate": ("evaluate a run or an exported file on every test image", _evaluate_options),
    "export": ("write one .onnx file, gradient inside, checked against torch", _export_options),
    "compare": ("train arms × seeds under one recipe and write the table", _compare_options),
    "summary": ("print parameters, multiply-adds and memory of every arm", _summary_options),
    "recipes": ("print the recipes, or every key of one with its meaning", _recipes_options),
    "completion": ("print a script that completes this command in bash and zsh", _no_options),
}
"""Command → its purpose, and the function that adds its options."""
