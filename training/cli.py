"""`fieldmark-train`: fit, evaluate, export, compare, summary."""

import argparse
import dataclasses
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.error import URLError

from model.files import WriteError, write_whole
from training.arms import ARMS, apply_arm
from training.errors import TrainingError
from training.recipe import Recipe, load_recipe, parse_change, recipe_names

if TYPE_CHECKING:  # importing torch takes seconds: only the commands that need it do
    from model.export.parity import ParityReport
    from training.data.datasets import Dataset

COMPARED = "plain,se,cbam,spatial,mixed,unguided,guided,guided-uniform,guided-shuffled"
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
    except (TrainingError, WriteError, URLError, ValueError) as error:
        _say(f"fieldmark-train {options.name}: {error}")
        return 1
    except RuntimeError as error:
        if not type(error).__module__.startswith("model."):
            raise
        _say(f"fieldmark-train {options.name}: {error}")  # parity, gate or graph: the model refuses to be written
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def fit_command(options: argparse.Namespace) -> int:
    """Train, or go on training."""
    from training.data.datasets import load_dataset
    from training.fit.job import Job
    from training.fit.loop import fit

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
    if outcome.leads:
        _print(result, options.json)
    if outcome.finished:
        return 0
    _say(f"stopped after epoch {outcome.epoch}; the same command goes on")
    return INTERRUPTED if outcome.interrupted else UNFINISHED


def evaluate_command(options: argparse.Namespace) -> int:
    """Judge a run or an exported file on every image of a part."""
    from training.checkpoint import load_selected
    from training.data.datasets import load_dataset
    from training.evaluation.evaluate import judge_file, judge_selected, part_of, predictions_csv
    from training.evaluation.faithfulness import faithfulness_of
    from training.evaluation.report import write_report
    from training.fit.world import pick_device

    dataset = load_dataset(options.data, options.dataset)
    workers, visible = _workers(options), not options.quiet
    if options.model.suffix == ".onnx":
        recipe = _recipe_of_file(options.model) if options.part == "held-out" else None
        judged = judge_file(options.model, dataset, part_of(dataset, recipe, options.part), workers, visible)
    else:
        selected = load_selected(options.model)
        samples = part_of(dataset, selected.recipe, options.part)
        judged = judge_selected(selected, dataset, samples, pick_device(options.device), workers, visible)
    figures = judged.figures()
    if options.faithfulness:
        figures |= faithfulness_of(judged, options.model, options.faithfulness, dataset.banner)
    result = {"model": str(options.model), "dataset": dataset.name, "part": options.part, **figures}
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        write_whole(options.out / "metrics.json", json.dumps(result, indent=2) + "\n")
        write_whole(options.out / "predictions.csv", predictions_csv(judged))
        title = f"{options.model.name} on {dataset.name}, {options.part}"
        write_report(judged, figures, title, options.out / "report.html", dataset.banner)
    _print(result, options.json)
    return 0


def export_command(options: argparse.Namespace) -> int:
    """Write one .onnx file from a run, or from another exported file."""
    from training.data.datasets import load_dataset
    from training.export import load_source, publish

    if (options.model is None) == (options.torchvision is None):
        raise TrainingError("give a run, an .onnx file, or --torchvision NAME")
    if options.torchvision:
        return _export_torchvision(options)
    dataset = load_dataset(options.data, options.dataset) if options.data else None
    if options.precision != "fp32":
        return _export_variant(options, dataset)
    source = load_source(options.model, options.name_of_model, dataset)
    if not source.images_are_real:
        _say("note: no photos at hand, parity is checked on synthetic images; --data DIR takes real ones")
    report = publish(source, options.out, weights_dtype=options.weights_dtype, temperature=options.temperature)
    _print_export(options, report)
    return 0


def _print_export(options: argparse.Namespace, report: "ParityReport") -> None:
    """Print what was written and how it compares, and say how to get the implementations that could not be asked."""
    from model.export.peers import PEERS

    absent = {name: peer.package for name, peer in PEERS.items() if name not in report.peers}
    if absent:
        _say(f"note: not compared with {', '.join(absent)}: not installed; pip install {' '.join(absent.values())}")
    _print({"file": str(options.out), "bytes": options.out.stat().st_size, **report.to_metrics()}, options.json)


def _export_variant(options: argparse.Namespace, dataset: "Dataset | None") -> int:
    """Write a smaller precision, if it passes its gate on the photos that the run held out."""
    from model.export.precision import export_variant
    from training.checkpoint import load_selected
    from training.export import load_source, variant_photos

    if dataset is None:
        raise TrainingError(f"--precision {options.precision} needs --data DIR: it is judged on held-out photos")
    from_file = options.model.suffix == ".onnx"
    recipe = _recipe_of_file(options.model) if from_file else load_selected(options.model).recipe
    source = load_source(options.model, options.name_of_model, dataset)
    held_out, calibration = variant_photos(dataset, recipe, source.manifest.resize)
    figures = export_variant(
        source.network, source.manifest, options.out, options.precision, held_out=held_out, calibration=calibration
    )
    _print({"file": str(options.out), "bytes": options.out.stat().st_size, **figures}, options.json)
    return 0


def _export_torchvision(options: argparse.Namespace) -> int:
    """Write one of torchvision's classifiers with the user's weights, explained as it is."""
    from model.contract.geometry import Resize
    from model.export.zoo import export_torchvision

    if not (options.weights and options.layer and options.labels):
        raise TrainingError("--torchvision needs --weights FILE, --layer PATH and --labels FILE (one label a line)")
    labels = options.labels.read_text(encoding="utf-8").splitlines()
    report = export_torchvision(
        options.torchvision,
        options.weights,
        options.layer.split(","),
        [label.strip() for label in labels if label.strip()],
        options.out,
        resize=Resize(size=options.resize or round(options.size * 8 / 7), crop=options.size),
        mean=tuple(options.mean),
        std=tuple(options.std),
        weights_dtype=options.weights_dtype,
        peers=True,
    )
    _print_export(options, report)
    return 0


def compare_command(options: argparse.Namespace) -> int:
    """Train arms × seeds under one recipe and write the table."""
    from training.compare import Comparison, compare, read_results

    comparison = Comparison(
        recipe=_recipe(options),
        arms=tuple(name.strip() for name in options.arms.split(",")),
        seeds=tuple(int(seed) for seed in options.seeds.split(",")),
        data=options.data,
        kind=options.dataset,
        weights=_weights(options.weights),
        out=options.out,
        cache=_cache(options),
        device=options.device,
        workers=_workers(options),
        jobs=options.jobs,
        time_budget_s=options.time_budget_s,
        keep_weights=options.keep_weights,
        visible=not options.quiet,
        commit=_commit(),
    )
    done = compare(comparison)
    results = read_results(options.out)
    if options.json:
        _print({"finished": done, "results": results}, as_json=True)
    elif results:
        sys.stdout.write((options.out / "table.md").read_text(encoding="utf-8"))
    if not done:
        _say("not all runs are done; the same command goes on")
    return 0 if done else UNFINISHED


def summary_command(options: argparse.Namespace) -> int:
    """Print what every arm costs."""
    from training.summary import summarise, summary_table

    recipe = _recipe(options)
    arms = tuple(name for name in ARMS if recipe.network.head == "mlp" or not ARMS[name].matched)
    costs = summarise(recipe, arms, options.classes)
    if options.json:
        _print({"arms": [dataclasses.asdict(cost) for cost in costs]}, as_json=True)
    else:
        sys.stdout.write(summary_table(costs))
    return 0


def _recipe_of_file(path: Path) -> Recipe:
    """Return the recipe an exported file carries."""
    from model.export.export import load_network

    known = {field.name for field in dataclasses.fields(Recipe)}
    carried = load_network(path)[1].provenance.recipe
    return Recipe.from_dict({key: value for key, value in carried.items() if key in known})


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

    evaluate = _command(commands, "evaluate", evaluate_command, "judge a run or an exported file on every test image")
    evaluate.add_argument("model", type=Path, metavar="RUN|FILE.onnx")
    _data_options(evaluate, required=True)
    evaluate.add_argument("--part", choices=("test", "held-out"), default="test", help="of the data set")
    evaluate.add_argument("--out", type=Path, metavar="DIR", help="write figures, predictions and a report there")
    evaluate.add_argument(
        "--faithfulness", type=int, default=0, metavar="N", help="measure insertion and deletion on N photos, too"
    )
    evaluate.add_argument("--device", default="auto", help="of a run: auto, cpu, cuda or cuda:N")
    evaluate.add_argument("--workers", type=int, help="processes that decode photos (default: one a core, at most 16)")

    export = _command(
        commands, "export", export_command, "write one .onnx file, gradient inside, checked against torch"
    )
    export.add_argument("model", type=Path, nargs="?", metavar="RUN|FILE.onnx")
    _data_options(export, required=False)
    export.add_argument("--out", type=Path, required=True, metavar="FILE.onnx")
    export.add_argument("--name", dest="name_of_model", help="of the model (default: the run's folder)")
    export.add_argument("--weights-dtype", choices=("fp16", "fp32"), default="fp16", help="in which weights are stored")
    export.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="of the arithmetic; smaller ones need --data",
    )
    export.add_argument("--torchvision", metavar="NAME", help="instead of a run: one of torchvision's classifiers")
    export.add_argument("--weights", type=Path, metavar="FILE", help="its whole state dict")
    export.add_argument(
        "--layer", metavar="PATH", help="its module to explain, e.g. layer4; several by comma, last first"
    )
    export.add_argument(
        "--labels", type=Path, metavar="FILE", help="its classes, one a line, in the order of the logits"
    )
    export.add_argument("--size", type=int, default=224, help="its input, pixels (default: 224)")
    export.add_argument("--resize", type=int, help="shorter side before the crop, pixels (default: 8/7 of the size)")
    export.add_argument("--mean", type=float, nargs=3, default=(0.485, 0.456, 0.406), help="its normalisation, RGB")
    export.add_argument("--std", type=float, nargs=3, default=(0.229, 0.224, 0.225), help="likewise")
    export.add_argument("--temperature", type=float, help="of the probabilities, instead of the fitted one")

    compare = _command(commands, "compare", compare_command, "train arms × seeds under one recipe and write the table")
    _data_options(compare, required=True)
    _recipe_options(compare)
    _run_options(compare)
    compare.add_argument("--arms", default=COMPARED, help=f"by comma (default: {COMPARED}; all: {', '.join(ARMS)})")
    compare.add_argument("--seeds", default="0,1,2", help="by comma (default: 0,1,2)")
    compare.add_argument("--jobs", type=int, default=1, help="runs at the same time: a small network leaves a GPU idle")
    compare.add_argument("--keep-weights", action="store_true", help="keep the selected weights of finished runs")
    compare.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the comparison; one there goes on")

    summary = _command(commands, "summary", summary_command, "print parameters, multiply-adds and memory of every arm")
    _recipe_options(summary)
    summary.add_argument("--classes", type=int, default=200, help="of the head (default: 200)")
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
    from training.data.store import cache_folder

    return options.cache or cache_folder()


def _commit() -> str:
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


def _print(result: dict[str, Any], as_json: bool) -> None:
    """Print a result on stdout, for a program or for a person."""
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
        return
    width = max(map(len, result), default=0)
    for name, value in result.items():
        sys.stdout.write(f"{name:<{width}}  {f'{value:.5g}' if isinstance(value, float) else value}\n")


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
