"""`fieldmark-train`: fit, evaluate, export, compare, summary."""

import argparse
import dataclasses
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

from model.files import check_folder, check_target
from model.terminal import one_line, run
from training.arms import ARMS, apply_arm
from training.data.samples import Dataset
from training.errors import TrainingError
from training.fit.job import Job
from training.grid import GridRun, Setting, read_grid
from training.options import (
    build_of,
    build_parser,
    cache_of,
    dataset_of,
    project_commit,
    recipe_of,
    weights_of,
    workers_of,
)  # fmt: skip
from training.recipe import Recipe

INTERRUPTED = 130
"""Exit status after Ctrl-C, as of a shell."""
UNFINISHED = 75
"""Exit status if the time budget ended first (EX_TEMPFAIL: run the same command again)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status.

    Each command imports what it needs when it runs: torch alone takes seconds.
    """
    name = ""

    def refuse(message: str) -> int:
        _say(f"fieldmark-train{name}: {one_line(message)}")
        return 1

    def command() -> int:
        nonlocal name
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
        given = sys.argv[1:] if arguments is None else arguments
        options = build_parser().parse_args(given)
        options.command_line = shlex.join(["fieldmark-train", *given])
        name = f" {options.name}"
        try:
            return COMMANDS[options.name](options)
        except (TrainingError, URLError, ValueError) as error:
            return refuse(str(error))
        except RuntimeError as error:
            if not type(error).__module__.startswith("model."):
                raise
            return refuse(str(error))  # parity, limits or graph: the file is not written

    return run(command, refuse)


def fit_command(options: argparse.Namespace) -> int:
    """Train, or resume training."""
    from training.fit.folds import fit_folds
    from training.fit.loop import fit

    job = dataclasses.replace(_job(options, recipe_of(options)), keep_outputs=True)
    outcome = fit_folds(job, options.folds) if options.folds else fit(job)
    result: dict[str, Any] = {"run": str(options.out), "finished": outcome.finished, "epochs": outcome.epoch}
    result |= {f"held_out_{name}": value for name, value in outcome.metrics.items()}
    if outcome.folds:
        top1 = outcome.folds["top1"]
        flat = {"held_out_top1_low": top1["low"], "held_out_top1_high": top1["high"], "folds": outcome.folds["count"]}
        result |= {"folds": outcome.folds} if options.json else flat
    if outcome.leads:
        _print(result, options.json)
    if outcome.finished:
        return 0
    where = f" of fold {outcome.fold} of {options.folds}" if outcome.fold else ""
    _say(f"stopped after epoch {outcome.epoch}{where}; the same command resumes")
    return INTERRUPTED if outcome.interrupted else UNFINISHED


def _job(options: argparse.Namespace, recipe: Recipe, dataset: Dataset | None = None) -> Job:
    """Return the input of `fit`; the folder of the run is checked before the photos are read, unless they have been."""
    check_folder(options.out)
    return Job(
        recipe=recipe,
        dataset=dataset or dataset_of(options),
        out=options.out,
        weights=options.weights,
        cache=cache_of(options),
        device=options.device,
        workers=workers_of(options),
        fresh=getattr(options, "fresh", False),
        time_budget_s=options.time_budget_s,
        visible=not options.quiet,
        commit=project_commit(),
    )


def evaluate_command(options: argparse.Namespace) -> int:
    """Evaluate a run or an exported file on every image of a part."""
    from training.checkpoint import load_selected
    from training.commands.evaluate import add_to_card, as_text, evaluate, write
    from training.commands.question import Question
    from training.evaluation.report.card import check_card

    if options.out:
        check_folder(options.out)
    if options.card:
        check_target(options.card)
        check_card(options.card)
    from_file = options.model.suffix == ".onnx"
    result = evaluate(
        Question(
            model=options.model,
            recipe=_recipe_of_file(options.model) if from_file else load_selected(options.model).recipe,
            dataset=dataset_of(options),
            folder=options.data,
            part=options.part,
            device=options.device,
            workers=workers_of(options),
            visible=not options.quiet,
            commit=project_commit(),
            command=options.command_line,
            faithfulness=options.faithfulness,
            sanity=options.sanity,
            blur=options.blur,
            placings=options.placings,
            unknown=tuple(options.unknown),
        )
    )
    if options.out:
        write(result, options.out)
    if options.card:
        add_to_card(result, options.card)
    _print(result.to_dict() if options.json else as_text(result), options.json)
    return 0


def export_command(options: argparse.Namespace) -> int:
    """Write one .onnx file from a run, or from another exported file."""
    if (options.model is None) == (options.torchvision is None):
        raise TrainingError("give a run, an .onnx file, or --torchvision NAME")
    if options.out.suffix != ".onnx":
        raise TrainingError(f"{options.out}: the name must end in .onnx")
    check_target(options.out)
    if options.torchvision:
        figures = _export_torchvision(options)
    elif options.precision != "fp32":
        figures = _export_variant(options)
    else:
        figures = _export_network(options)
    _print({"file": str(options.out), "bytes": options.out.stat().st_size, **figures}, options.json)
    return 0


def _export_network(options: argparse.Namespace) -> dict[str, float]:
    """Write a network in float32 arithmetic; return how it compares."""
    from model.export.export import export
    from training.commands.export import load_source

    dataset = dataset_of(options) if options.data else None
    source = load_source(options.model, options.name_of_model, dataset, **_set_at_export(options))
    if not source.images_are_real:
        _say("note: without photos parity is checked on synthetic images; --data DIR uses photos")
    if source.fitted.embedding is None:
        _say("note: without training photos the file has no embedding; --data DIR uses photos")
    if source.fitted.novelty is None:
        _say("note: without answers for held-out photos, which a run keeps, the file has no novelty")
    report = export(
        source.network,
        source.manifest,
        options.out,
        images=source.images,
        weights_dtype=options.weights_dtype,
        peers=True,
        fitted=source.fitted,
    )
    return _compared(report.to_metrics())


def _set_at_export(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the options set in the manifest."""
    return {name: getattr(options, name) for name in ("temperature", "mark_maps", "placing", "missing")}


def _compared(figures: dict[str, float]) -> dict[str, float]:
    """Return the figures of an export; report which implementations it was not compared with."""
    from model.export.peers import PEERS

    absent = {name: peer.package for name, peer in PEERS.items() if f"peer.{name}" not in figures}
    if absent:
        _say(f"note: not compared with {', '.join(absent)}: not installed; pip install {' '.join(absent.values())}")
    return figures


def _export_variant(options: argparse.Namespace) -> dict[str, float]:
    """Write a smaller precision if it meets its quality limits on the photos that the run held out."""
    from model.export.precision import export_variant
    from training.checkpoint import load_selected
    from training.commands.export import load_source, variant_photos

    if options.data is None:
        raise TrainingError(f"--precision {options.precision} needs --data DIR: it is measured on held-out photos")
    dataset = dataset_of(options)
    from_file = options.model.suffix == ".onnx"
    # A classifier trained elsewhere has no recipe: photos are held out as the default one does.
    recipe = (_recipe_of_file(options.model) or Recipe()) if from_file else load_selected(options.model).recipe
    source = load_source(options.model, options.name_of_model, dataset, **_set_at_export(options))
    held_out, calibration = variant_photos(dataset, recipe, source.manifest.resize)
    return export_variant(
        source.network,
        source.manifest,
        options.out,
        options.precision,
        held_out=held_out,
        calibration=calibration,
        fitted=source.fitted,
    )


def _export_torchvision(options: argparse.Namespace) -> dict[str, float]:
    """Write one of torchvision's classifiers with the user's weights, explained without retraining."""
    from model.contract.geometry import Resize
    from model.export.zoo import export_torchvision

    if not (options.weights and options.layer and options.labels):
        raise TrainingError("--torchvision needs --weights FILE, --layer PATH and --labels FILE (one label a line)")
    if unused := [name for name, value in _set_at_export(options).items() if value is not None]:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        raise TrainingError(f"{given}: not with --torchvision")
    try:
        labels = options.labels.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise TrainingError(f"{options.labels}: not UTF-8: {error.reason} at byte {error.start}") from error
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
        build=build_of(options),
    )
    return _compared(report.to_metrics())


def compare_command(options: argparse.Namespace) -> int:
    """Train arms × seeds under one recipe and write the table; or those of a grid; or merge the folders of several."""
    if options.merge:
        return _merge(options)
    listed = _listed(options)
    index, of = options.index
    numbered = list(enumerate(listed, 1))[index - 1 :: of]
    if options.list:
        _print_list([one.line(number) for number, one in numbered], options.json)
        return 0
    from training.commands.compare import do, gpus_of, runs_of

    recipe, datasets = recipe_of(options), dict[str, Dataset]()

    def job_of(setting: Setting) -> Job:
        given = argparse.Namespace(**vars(options))
        given.data, given.out = Path(setting.data), options.out / setting.name
        given.weights = options.weights if setting.weights is None else weights_of(setting.weights)
        check_folder(given.out)  # before the photos are read
        datasets[setting.data] = datasets.get(setting.data) or dataset_of(given)
        return _job(given, recipe.with_values(setting.changes), datasets[setting.data])

    processes = options.jobs or max(1, len(gpus_of(options.device)))
    runs = runs_of(listed, [one for _, one in numbered], job_of, processes, options.keep_weights)
    done = do(runs)
    _print_tables([one.comparison.job.out for one in runs], options, finished=done)
    if not done:
        _say("not all runs are done; the same command resumes")
    return 0 if done else UNFINISHED


def _listed(options: argparse.Namespace) -> list[GridRun]:
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


def _print_list(lines: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Print the numbered runs of a grid."""
    if as_json:
        _print({"runs": list(lines)}, as_json=True)
        return
    for line in lines:
        name = f"{line['comparison']}  " if line["comparison"] else ""
        sys.stdout.write(f"{line['number']:>4}  {name}{line['arm']}  seed {line['seed']}\n")


def _merge(options: argparse.Namespace) -> int:
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
    _print_tables([options.out / name for name in tables], options)
    return 0


def _print_tables(folders: Sequence[Path], options: argparse.Namespace, **facts: Any) -> None:
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
    _print({**facts, **contents.get(options.out, named)}, as_json=True)


def summary_command(options: argparse.Namespace) -> int:
    """Print the cost of every arm."""
    from training.commands.summary import summarise, summary_table

    recipe = recipe_of(options)
    arms = tuple(name for name in ARMS if recipe.network.head == "mlp" or not ARMS[name].matched)
    costs = summarise(recipe, arms, options.classes)
    if options.json:
        _print({"arms": [dataclasses.asdict(cost) for cost in costs]}, as_json=True)
    else:
        sys.stdout.write(summary_table(costs))
    return 0


COMMANDS = {
    "fit": fit_command,
    "evaluate": evaluate_command,
    "export": export_command,
    "compare": compare_command,
    "summary": summary_command,
}


def _recipe_of_file(path: Path) -> Recipe | None:
    """Return the recipe in an exported file; None where it has none, as classifiers trained elsewhere."""
    from model.contract.manifest import Manifest
    from model.export.export import read

    known = {field.name for field in dataclasses.fields(Recipe)}
    carried = Manifest.from_metadata({entry.key: entry.value for entry in read(path).metadata_props}).provenance.recipe
    return Recipe.from_dict({key: value for key, value in carried.items() if key in known}) if carried else None


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
