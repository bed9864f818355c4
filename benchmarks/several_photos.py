"""How much better several photos of one class are named than one: an upper bound for photos of one individual.

    python benchmarks/several_photos.py --data CUB [--model FILE|FOLDER] [--dependence D]

The test photos of each class are taken in pairs, all of them, and in threes and fives at random; every photo counts
the same. Photos of one individual are more alike than these, and gain less. Top-1 does not depend on the dependence,
the probabilities do: NLL and ECE are shown for independent photos (0), for the number in the model's file or
`--dependence`, and for the geometric mean (1). The interval is a bootstrap over classes. The exit status is 1 where two
photos gain less than four points.
"""

import argparse
import asyncio
import itertools
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.contract.manifest import Manifest
from service.decision.beliefs import log_probabilities
from service.decision.individual import dependence
from service.inference.engine import Question
from service.inference.runtime import Runtime
from service.settings import BUNDLED_MODEL, Settings
from training.data.datasets import load_dataset
from training.data.samples import Sample
from training.evaluation.scores import expected_calibration_error, negative_log_likelihood

LIMIT = 0.04
RESAMPLES = 5000
SHUFFLES = 30

Floats = npt.NDArray[np.floating]


def main() -> int:
    """Measure, print, and return 1 where the limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    parser.add_argument("--dependence", type=float)
    options = parser.parse_args()
    test = load_dataset(options.data).test
    manifest, logits = asyncio.run(answers(test, Settings(model=options.model, request_timeout_ms=1e9)))
    labels = np.array([sample.label for sample in test])
    each = log_probabilities(logits, manifest.temperature)
    own = dependence(manifest) if options.dependence is None else options.dependence
    generator = np.random.default_rng(0)
    gain, low, high = gain_of_two(each, labels, generator)
    print(f"{len(labels)} photos, top-1 of one {(each.argmax(axis=1) == labels).mean():.1%}")
    print(f"two photos of one class: {100 * gain:+.1f} points ({100 * low:+.1f} … {100 * high:+.1f}), an upper bound")
    for size in (2, 3, 5):
        chosen = groups(labels, size, generator)
        products, wanted = each[chosen].sum(axis=1), labels[chosen[:, 0]]
        print(f"{size} photos: top-1 {(products.argmax(axis=1) == wanted).mean():.1%}")
        for power in sorted({0.0, own, 1.0}):
            scores = products * size**-power
            nll, ece = negative_log_likelihood(scores, wanted), expected_calibration_error(scores, wanted)
            print(f"  dependence {power:.3f}: NLL {nll:.4f}, ECE {ece:.2%}")
    return int(gain < LIMIT)


async def answers(samples: list[Sample] | tuple[Sample, ...], settings: Settings) -> tuple[Manifest, Floats]:
    """Return the served model's manifest and its logits for the photos, (n, K)."""
    runtime = Runtime(settings)
    await runtime.start()
    await runtime.models.wait_ready()
    served = runtime.models.get()
    predict, question = runtime.predictor.predict, Question.about(served.manifest)
    found = [(await predict(served, sample.path.read_bytes(), question)).logits for sample in samples]
    await runtime.stop()
    return served.manifest, np.stack(found)


def gain_of_two(each: Floats, labels: Floats, generator: np.random.Generator) -> tuple[float, float, float]:
    """Return the gain in top-1 over one photo of all pairs within a class, and its 95% interval."""
    rows = []
    for label in np.unique(labels):
        photos = np.flatnonzero(labels == label)
        pairs = np.array(list(itertools.combinations(photos, 2)))
        one = (each[photos].argmax(axis=1) == label).mean()
        rows.append((len(photos), (each[pairs].sum(axis=1).argmax(axis=1) == label).mean() - one))
    counts, gains = np.array(rows).T
    drawn = generator.integers(0, len(rows), (RESAMPLES, len(rows)))
    samples = (counts[drawn] * gains[drawn]).sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(samples, [0.025, 0.975])
    return float((counts * gains).sum() / counts.sum()), float(low), float(high)


def groups(labels: Floats, size: int, generator: np.random.Generator) -> npt.NDArray[np.integer]:
    """Return random groups of photos of one class, (G, size)."""
    found = []
    for label in np.repeat(np.unique(labels), SHUFFLES):
        photos = generator.permutation(np.flatnonzero(labels == label))
        count = len(photos) // size
        found.append(photos[: count * size].reshape(count, size))
    return np.concatenate(found)


if __name__ == "__main__":
    sys.exit(main())
