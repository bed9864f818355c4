"""Are marks seen, or guessed from the class? Their area under the curve on classes that were not trained on.

Five networks, each trained without a fifth of the classes, read the marks of those classes' training photos. Beside
them stands what their class probabilities times the table would say, which sees nothing. No test photo is used.

    python benchmarks/marks_left_out.py --data DIR --weights FILE [--recipe birds] [--epochs N] --out runs/left_out
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from model.contract.graph import softmax
from training.calibration.outputs import Outputs
from training.data.datasets import load_dataset
from training.data.marks import Marks
from training.data.samples import Dataset, Sample
from training.data.store import cache_folder
from training.evaluation.figures import Figure
from training.evaluation.marks.auroc import LeftOut, left_out_figures
from training.fit.job import Job, Parts
from training.fit.loop import set_up, train
from training.fit.outputs import outputs_of
from training.fit.processes import StopRequest, process_group
from training.fit.state import read_checkpoint
from training.recipe import load_recipe


def main() -> None:
    """Train, measure and print JSON; the same command goes on where it stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--recipe", default="birds")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--cache", type=Path, default=cache_folder())
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    dataset = load_dataset(options.data)
    if dataset.marks is None:
        raise SystemExit("the data set has no table of marks")
    recipe = load_recipe(options.recipe).with_values({"data.held_out": 0.0, "run.selection": "last"})
    if options.epochs:
        recipe = recipe.with_values({"optim.epochs": options.epochs})
    splits = []
    for split in range(options.splits):
        kept = [label for label in range(dataset.num_classes) if label % options.splits != split]
        part, parts = _without(dataset, dataset.marks, kept)
        job = Job(recipe, part, options.out / str(split), options.weights, options.cache, parts=parts)
        outputs = _answers(job, parts)
        left_out = np.array([sample.label for sample in dataset.train if sample.label not in kept])
        table = dataset.marks.table
        splits.append(LeftOut(outputs.marks, softmax(outputs.logits), table[kept], table[left_out], left_out))
        print(json.dumps({"split": split, **_plain(left_out_figures(splits[-1:]))}), flush=True)
    print(json.dumps(_plain(left_out_figures(splits))))


def _without(dataset: Dataset, marks: Marks, kept: list[int]) -> tuple[Dataset, Parts]:
    """Return the data set of some classes alone, and the division into their photos and all others.

    The photos of the other classes stay in the training part, as class 0, so that one cache serves all splits.
    """
    number = {label: index for index, label in enumerate(kept)}
    samples = [replace(sample, label=number.get(sample.label, 0)) for sample in dataset.train]
    is_kept = [sample.label in number for sample in dataset.train]

    def chosen(wanted: bool) -> list[Sample]:
        return [sample for sample, flag in zip(samples, is_kept, strict=True) if flag is wanted]

    part = replace(
        dataset,
        labels=tuple(dataset.labels[label] for label in kept),
        train=tuple(samples),
        test=(),
        marks=replace(marks, table=marks.table[kept]),
    )
    return part, Parts(chosen(True), chosen(False))


def _answers(job: Job, parts: Parts) -> Outputs:
    """Train on the kept classes, or resume, and read the photos of the others."""
    path = job.out / "left_out.npz"
    with process_group(job.device) as processes, StopRequest(job.time_budget_s) as stop:
        read_checkpoint(job, processes)  # refuses what another recipe, or a division into other splits, left
        if (known := Outputs.read(path)) is not None:
            return known
        run = set_up(job, processes, stop)
        if not train(run).finished:
            raise SystemExit("stopped; the same command goes on")
        outputs = outputs_of(run.learner, run.loaders.held, parts.held)
    outputs.write(path)
    return outputs


def _plain(figures: dict[str, Figure]) -> dict[str, object]:
    return {name: figure.to_dict() for name, figure in figures.items()}


if __name__ == "__main__":
    main()
