"""`fieldmark-train`: fit, evaluate, export, compare, summary, recipes."""

import argparse
import dataclasses
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

from model.files import check_folder, check_target
from model.terminal import one_line, run
from training.arms import ARMS
from training.comparing import listed, merge, print_list, print_tables
from training.data.samples import Dataset
from training.errors import TrainingError
from training.fit.job import Job
from training.grid import Setting
from training.options import (
    build_of,
    build_parser,
    cache_of,
    completion_command,
    data_words,
    dataset_of,
    project_commit,
    recipe_of,
    weights_of,
    workers_of,
)  # fmt: skip
from training.printing import print_result, say
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
        say(f"fieldmark-train{name}: {one_line(message)}")
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
            if str(error).startswith("DataLoader worker"):  # torch has no class for it
                return refuse("a process that loads photos was killed, mostly for want of memory: --workers N starts "
                              "fewer; the same command goes on from what was saved last")  # fmt: skip
            if not type(error).__module__.startswith("model."):
                raise
            return refuse(str(error))  # parity, limits or graph: the file is not written

    return run(command, refuse)


def fit_command(options: argparse.Namespace) -> int:
    """Train, or resume training."""
    from training.commands.fit import next_words, result_of, run_fit

    job = dataclasses.replace(_job(options, recipe_of(options)), keep_outputs=True)
    outcome = run_fit(job, options.folds)
    if outcome.leads:
        print_result(result_of(outcome, job, as_json=options.json), options.json)
        if not (options.quiet and outcome.finished):
            say(next_words(outcome, job, data_words(options), options.folds))
    if outcome.finished:
        return 0
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
    """Evaluate a run or an exported file on every image of a part; or read what users said of a service's answers."""
    if options.feedback or not (options.model and options.data):
        from training.commands.feedback import report

        return report(options)
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
    print_result(result.to_dict() if options.json else as_text(result), options.json)
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
    print_result({"file": str(options.out), "bytes": options.out.stat().st_size, **figures}, options.json)
    return 0


def _export_network(options: argparse.Namespace) -> dict[str, float]:
    """Write a network in float32 arithmetic; return how it compares."""
    from model.export.export import export
    from training.commands.export import load_source

    dataset = dataset_of(options) if options.data else None
    source = load_source(options.model, options.name_of_model, dataset, **_set_at_export(options))
    if not source.images_are_real:
        say("note: without photos parity is checked on synthetic images; --data DIR uses photos")
    if source.fitted.embedding is None:
        say("note: without training photos the file has no embedding; --data DIR uses photos")
    if source.manifest.sets is None:
        say("note: without the answers of folds the file makes no sets; export a run of fit --folds K")
    if source.fitted.novelty is None:
        say("note: without a run's answers for held-out photos, 20 at least, the file has no novelty; "
            "fit --folds K answers for all photos")  # fmt: skip
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
    return {name: getattr(options, name) for name in ("temperature", "mark_maps", "placing", "missing", "taxonomy")}


def _compared(figures: dict[str, float]) -> dict[str, float]:
    """Return the figures of an export; report which implementations it was not compared with."""
    from model.export.peers import PEERS

    absent = {name: peer.package for name, peer in PEERS.items() if f"peer.{name}" not in figures}
    if absent:
        say(f"note: not compared with {', '.join(absent)}: not installed; pip install {' '.join(absent.values())}")
    return figures


def _export_variant(options: argparse.Namespace) -> dict[str, float]:
    """Write a smaller precision if it meets its quality limits on photos that the run held out, or else on others."""
    from model.export.precision import export_variant
    from training.checkpoint import load_selected
    from training.commands.export import load_source, variant_photos

    if options.data is None:
        raise TrainingError(f"--precision {options.precision} needs --data DIR: it is measured on photos")
    dataset = dataset_of(options)
    from_file = options.model.suffix == ".onnx"
    # A classifier trained elsewhere has no recipe: photos are held out as the default one does.
    recipe = (_recipe_of_file(options.model) or Recipe()) if from_file else load_selected(options.model).recipe
    source = load_source(options.model, options.name_of_model, dataset, **_set_at_export(options))
    held_out, calibration = variant_photos(dataset, recipe, source.manifest.resize)
    if held_out.trained_on:
        say(f"note: no photos were held out: compared with fp32 on {len(held_out.images)} that were trained on")
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
    others = {"name": options.name_of_model, "data": options.data, **_set_at_export(options)}
    others["precision"] = None if options.precision == "fp32" else options.precision
    if unused := [name for name, value in others.items() if value is not None]:
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
        return merge(options)
    wanted = listed(options)
    index, of = options.index
    numbered = list(enumerate(wanted, 1))[index - 1 :: of]
    if options.list:
        print_list([one.line(number) for number, one in numbered], options.json)
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
    runs = runs_of(wanted, [one for _, one in numbered], job_of, processes, options.keep_weights)
    try:
        done = do(runs)
    except KeyboardInterrupt:
        say("stopped; the same command resumes")
        raise
    print_tables([one.comparison.job.out for one in runs], options, finished=done)
    if not done:
        say("not all runs are done; the same command resumes")
    return 0 if done else UNFINISHED


def summary_command(options: argparse.Namespace) -> int:
    """Print the cost of every arm."""
    from training.commands.summary import summarise, summary_table

    recipe = recipe_of(options)
    arms = tuple(name for name in ARMS if recipe.network.head == "mlp" or not ARMS[name].matched)
    costs = summarise(recipe, arms, options.classes)
    if options.json:
        print_result({"arms": [dataclasses.asdict(cost) for cost in costs]}, as_json=True)
    else:
        sys.stdout.write(summary_table(costs))
    return 0


def recipes_command(options: argparse.Namespace) -> int:
    """Print the recipes, or every key of one."""
    from training.commands.recipes import describe_recipe, list_recipes

    name, as_json = options.recipe, options.json
    sys.stdout.write(describe_recipe(name, as_json=as_json) if name else list_recipes(as_json=as_json))
    return 0


COMMANDS = {
    "fit": fit_command,
    "evaluate": evaluate_command,
    "export": export_command,
    "compare": compare_command,
    "summary": summary_command,
    "recipes": recipes_command,
    "completion": completion_command,
}


def _recipe_of_file(path: Path) -> Recipe | None:
    """Return the recipe in an exported file; None where it has none, as classifiers trained elsewhere."""
    from model.contract.manifest import Manifest
    from model.export.export import read

    known = {field.name for field in dataclasses.fields(Recipe)}
    carried = Manifest.from_metadata({entry.key: entry.value for entry in read(path).metadata_props}).provenance.recipe
    return Recipe.from_dict({key: value for key, value in carried.items() if key in known}) if carried else None


if __name__ == "__main__":
    sys.exit(main())
