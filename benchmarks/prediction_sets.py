"""Which score makes the smallest prediction sets that hold the true class, and does the procedure hold its promise?

The scores are compared on a run's out-of-fold answers: calibrated on a random half, measured on the other, 100 times.
No test photo is used for that. With `--predictions`, the Parquet file of `fieldmark-train evaluate --out`, the chosen
one is calibrated on 100 random halves of those photos and measured on the others.

    python benchmarks/prediction_sets.py --run RUN [--coverage 0.9] [--predictions predictions.parquet]
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from model.contract.graph import softmax
from training.calibration.outputs import HELD_OUT, Outputs
from training.calibration.sets import aps_scores, lac_scores, never_empty, raps_scores, threshold_of
from training.checkpoint import load_selected

HALVES = 100
WITHIN = 0.01
"""Most by which the mean coverage of the halves may lie beside the one requested."""
NINETY, MOST_CLASSES = 0.9, 1.5
"""Up to that coverage, the most classes in a set on average."""


def main() -> int:
    """Print the table, or JSON; returns 1 where a limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="with folds")
    parser.add_argument("--coverage", type=float, default=NINETY)
    parser.add_argument("--predictions", type=Path, help="of other photos than the run's")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    outputs, temperature = Outputs.read(options.run / HELD_OUT), load_selected(options.run).temperature
    if outputs is None or not (outputs.fold > 0).all():
        raise SystemExit("the run has no folds")
    probabilities = softmax(outputs.logits, temperature)
    found = {
        name: halves(scores, probabilities, outputs.labels, options.coverage)
        for name, scores in all_scores(probabilities).items()
    }
    print(f"{len(outputs.labels)} out-of-fold photos, coverage {options.coverage}", file=sys.stderr)
    holds = True
    if options.predictions:
        p, labels = read_predictions(options.predictions)
        found["lac on the other photos"] = there = halves(lac_scores(p), p, labels, options.coverage)
        least = max(options.coverage, float((p.argmax(axis=1) == labels).mean()))  # no set is empty
        holds = abs(there["coverage"] - least) <= WITHIN
        holds &= options.coverage > NINETY or there["size"] <= MOST_CLASSES
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        columns = ("coverage", "size", "largest", *(f"of {k}" for k in (1, 2, 3)), "empty")
        print(f"| score | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
        for name, values in found.items():
            print(f"| {name} | {' | '.join(f'{values[column]:.3f}' for column in columns)} |")
    return int(not holds)


def all_scores(p: np.ndarray) -> dict[str, np.ndarray]:
    """Return every score that is compared, (n, K) each; RAPS with those settings of a grid that do best."""
    u = np.random.default_rng(0).random(len(p))
    return {
        "lac": lac_scores(p),
        "aps": aps_scores(p),
        "aps, randomised": aps_scores(p, u),
        "raps 0.01, 1": raps_scores(p, 0.01, 1),
        "raps 0.1, 1": raps_scores(p, 0.1, 1),
        "raps 1, 1": raps_scores(p, 1, 1),
        "raps 0.1, 1, randomised": raps_scores(p, 0.1, 1, u),
    }


def halves(scores: np.ndarray, p: np.ndarray, labels: np.ndarray, coverage: float) -> dict[str, float]:
    """Return the means over random halves: coverage, classes in a set, in the largest, and coverage by size.

    `empty` is the share of sets that would be empty if the likeliest class had its own score.
    """
    rng = np.random.default_rng(0)
    ours = never_empty(scores, p)
    found = []
    for _ in range(HALVES):
        one, other = np.array_split(rng.permutation(len(labels)), 2)
        members = ours[other] <= threshold_of(ours[one, labels[one]], coverage)
        plain = scores[other] <= threshold_of(scores[one, labels[one]], coverage)
        hit, size = members[np.arange(len(other)), labels[other]], members.sum(axis=1)
        by_size = [hit[size == k].mean() if (size == k).any() else np.nan for k in (1, 2, 3)]
        found.append([hit.mean(), size.mean(), size.max(), *by_size, (plain.sum(axis=1) == 0).mean()])
    known = np.isfinite(found)
    means = np.where(known, found, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    names = ("coverage", "size", "largest", "of 1", "of 2", "of 3", "empty")
    return {
        name: float(value) if seen else float("nan")
        for name, value, seen in zip(names, means, known.any(axis=0), strict=True)
    }


def read_predictions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities, (n, K), and true classes, (n,)."""
    table = pq.read_table(path)
    names = [name.removeprefix("p: ") for name in table.column_names if name.startswith("p: ")]
    p = np.stack([table[f"p: {name}"].to_numpy() for name in names], axis=1)
    return p, np.array([names.index(label) for label in table["label"].to_pylist()])


if __name__ == "__main__":
    sys.exit(main())
