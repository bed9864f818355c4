"""Which score distinguishes photos of unknown things best? Chosen on some unknown things, reported on others.

Chosen on what is near, classes that the head was not fitted to (five splits, the discriminant of `head_start` on the
features of the starting weights), and on what is far, photos of `--far` that the networks of a run's folds answer. The
known photos are training photos that were held out. Reported for the run's own network: test photos and `--unknown`.

    python benchmarks/novelty_methods.py --run RUN --data DIR --weights FILE --far DIR --unknown DIR… --cache FOLDER

Sources of the scores stand with them.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import logsumexp, softmax
from tqdm import tqdm

from model.contract.geometry import Resize
from model.network.network import Network, build_network
from training.calibration.novelty import class_means
from training.calibration.outputs import HELD_OUT, TRAINED, Outputs
from training.checkpoint import load_selected, network_config
from training.data.datasets import load_dataset
from training.data.prepared import prepared_images
from training.data.samples import Sample
from training.data.transforms import Normalise
from training.evaluation.figures import Figure
from training.evaluation.unknown import names_of, photos_in, separation
from training.fit.head_start import discriminant

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer]
Score = Callable[[Floats], Floats]
"""From vectors that the head reads, (n, C), to scores that are higher for unknown photos, (n,)."""

NEIGHBOUR, EMBEDDED, PRINCIPAL, CLIPPED, PRUNED, SHRINKAGE = 5, 256, 256, 90, 0.85, 0.8
SUMS = (
    ("max_logit", "neighbour_embedding"),
    ("max_logit", "neighbour_pooled"),
    ("max_logit", "class_means"),
    ("max_logit", "class_means_root"),
    ("max_logit", "class_means_root", "outside"),
    ("max_logit", "class_means", "outside"),
    ("max_probability", "class_means_root"),
    ("max_probability", "neighbour_pooled"),
)
"""Scores that are added, each with median 0 and spread 1 on held-out photos."""


@dataclass(frozen=True, eq=False)
class Bank:
    """What scores are fitted to.

    Attributes:
        vectors: of the photos that were trained on, (n, C).
        labels: (n,); every class has a photo.
        weight: of the linear head, (K, C).
        bias: (K,).
    """

    vectors: Floats
    labels: Ints
    weight: Floats
    bias: Floats

    def logits(self, vectors: Floats) -> Floats:
        """Return the head's answer, (n, K)."""
        found: Floats = vectors @ self.weight.T + self.bias
        return found


def scores_of(bank: Bank) -> dict[str, Score]:
    """Return the single scores by name."""
    mean = bank.vectors.mean(axis=0)
    axes = np.linalg.svd(bank.vectors - mean, full_matrices=False)[2][:EMBEDDED]

    def embedded(vectors: Floats) -> Floats:
        return (vectors - mean) @ axes.T

    def outside(vectors: Floats) -> Floats:
        centred, along = vectors - mean, embedded(vectors)
        return np.sqrt(np.maximum((centred**2).sum(axis=1) - (along**2).sum(axis=1), 0))

    return {
        "outside": outside,
        # Hendrycks & Gimpel 2017, arXiv:1610.02136; Hendrycks et al. 2022, arXiv:1911.11132; Liu et al. 2020,
        # arXiv:2010.03759
        "max_probability": lambda vectors: -softmax(bank.logits(vectors), axis=1).max(axis=1),
        "max_logit": lambda vectors: -bank.logits(vectors).max(axis=1),
        "energy": lambda vectors: _energy(bank.logits(vectors)),
        "react": react(bank),
        "scale": scale(bank),
        "vim": vim(bank),
        "mahalanobis": mahalanobis(bank),
        "relative_mahalanobis": mahalanobis(bank, relative=True),
        "discriminant": mahalanobis(bank, shrinkage=SHRINKAGE),
        "neighbour_embedding": neighbour(bank, embedded),
        "neighbour_pooled": neighbour(bank, lambda vectors: vectors),
        "class_means": nearest_mean(bank, lambda vectors: vectors),
        "class_means_root": nearest_mean(bank, lambda vectors: np.sign(vectors) * np.sqrt(np.abs(vectors))),
    }


def react(bank: Bank) -> Score:
    """Energy of vectors clipped at a percentile of the training photos'. Sun et al. 2021, arXiv:2111.12797."""
    most = np.percentile(bank.vectors, CLIPPED)
    return lambda vectors: _energy(bank.logits(np.minimum(vectors, most)))


def scale(bank: Bank) -> Score:
    """Energy of vectors times exp(sum / sum of the largest). Xu et al. 2024, arXiv:2310.00227."""

    def score(vectors: Floats) -> Floats:
        kept = vectors.shape[1] - round(vectors.shape[1] * PRUNED)
        largest = np.sort(vectors, axis=1)[:, -kept:].sum(axis=1)
        return _energy(bank.logits(vectors * np.exp(vectors.sum(axis=1) / largest)[:, None]))

    return score


def vim(bank: Bank) -> Score:
    """Length outside the principal space as one more logit. Wang et al. 2022, arXiv:2203.10807."""
    origin = -np.linalg.pinv(bank.weight) @ bank.bias
    centred = bank.vectors - origin
    directions = np.linalg.eigh(centred.T @ centred)[1]
    rest = directions[:, : bank.vectors.shape[1] - PRINCIPAL]
    lengths = np.linalg.norm(centred @ rest, axis=1)
    alpha = bank.logits(bank.vectors).max(axis=1).sum() / lengths.sum()
    return lambda vectors: alpha * np.linalg.norm((vectors - origin) @ rest, axis=1) + _energy(bank.logits(vectors))


def mahalanobis(bank: Bank, *, shrinkage: float = 0.0, relative: bool = False) -> Score:
    """Distance to the nearest class. Lee et al. 2018, arXiv:1807.03888; relative: Ren et al. 2021, arXiv:2106.09022."""
    classes = len(bank.bias)
    means = np.stack([bank.vectors[bank.labels == label].mean(axis=0) for label in range(classes)])
    within = bank.vectors - means[bank.labels]
    inverse = _inverse(within.T @ within / len(within), shrinkage)
    overall = bank.vectors.mean(axis=0)
    spread = bank.vectors - overall
    whole = _inverse(spread.T @ spread / len(spread), shrinkage) if relative else np.zeros_like(inverse)

    def score(vectors: Floats) -> Floats:
        turned, centred = vectors @ inverse, vectors - overall
        distances = (turned * vectors).sum(axis=1)[:, None] - 2 * turned @ means.T + ((means @ inverse) * means).sum(1)
        nearest: Floats = distances.min(axis=1) - ((centred @ whole) * centred).sum(axis=1)
        return nearest

    return score


def neighbour(bank: Bank, of: Callable[[Floats], Floats]) -> Score:
    """Cosine to the k-th nearest training photo. Sun et al. 2022, arXiv:2204.06507."""
    known = _unit(of(bank.vectors))
    return lambda vectors: -np.sort(_unit(of(vectors)) @ known.T, axis=1)[:, -NEIGHBOUR]


def nearest_mean(bank: Bank, of: Callable[[Floats], Floats]) -> Score:
    """Cosine to the nearest class mean, over the length that it would have of endless photos, as it is served."""
    means = class_means(_unit(of(bank.vectors)), bank.labels, len(bank.bias))
    return lambda vectors: -(_unit(of(vectors)) @ means.T).max(axis=1)


def _energy(logits: Floats) -> Floats:
    return np.asarray(-logsumexp(logits, axis=1))


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    return unit


def _inverse(covariance: Floats, shrinkage: float) -> Floats:
    even = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
    return np.linalg.pinv((1 - shrinkage) * covariance + shrinkage * even, hermitian=True)


def spread_of(scores: Floats) -> tuple[float, float]:
    """Return median and spread, from the quartiles."""
    low, median, high = np.quantile(scores, [0.25, 0.5, 0.75])
    return float(median), float((high - low) / 1.349)


def with_sums(scores: Mapping[str, Floats], spreads: Mapping[str, tuple[float, float]]) -> dict[str, Floats]:
    """Return the scores, and sums of some, each on the scale of held-out photos."""
    scaled = {name: (values - spreads[name][0]) / spreads[name][1] for name, values in scores.items()}
    return dict(scores) | {" + ".join(names): sum((scaled[name] for name in names), np.float64(0)) for names in SUMS}


class Answers:
    """Vectors that a network's head reads of photos, kept in a folder.

    Args:
        resize: the networks' geometry.
        normalise: likewise.
        cache: the folder.
    """

    def __init__(self, resize: Resize, normalise: Normalise, cache: Path) -> None:
        self._resize, self._normalise, self._cache = resize, normalise, cache
        cache.mkdir(parents=True, exist_ok=True)

    def __call__(self, name: str, network: Network, samples: Sequence[Sample]) -> Floats:
        """Return the vectors, (n, C); from the folder where `name` is there already."""
        path = self._cache / f"{name}.npy"
        if not path.is_file():
            found = []
            with torch.no_grad():
                for start in tqdm(range(0, len(samples), 16), desc=name, leave=False):
                    images = prepared_images(samples[start : start + 16], self._resize, 0)
                    x = self._normalise(torch.from_numpy(images).permute(0, 3, 1, 2))
                    found.append(network.pool(network.forward_features(x).feature_map).numpy())
            np.save(path, np.concatenate(found))
        return np.load(path).astype(np.float64)


def head_of(network: Network) -> tuple[Floats, Floats]:
    """Return weight and bias of a linear head."""
    linear = network.head[-1]
    if len(network.head) > 2 or not isinstance(linear, torch.nn.Linear):
        raise SystemExit("the scores are written for a linear head")
    weight, bias = (part.detach().double().numpy() for part in (linear.weight, linear.bias))
    return weight, bias


def near(vectors: Floats, labels: Ints, fold: Ints, splits: int = 5) -> list[dict[str, dict[str, Figure]]]:
    """Return the figures of each split: training photos of classes that the head was not fitted to."""
    found = []
    for split in range(splits):
        kept = labels % splits != split
        number = np.cumsum(np.bincount(labels[kept], minlength=labels.max() + 1) > 0) - 1
        fitted, held = kept & (fold != split % fold.max() + 1), kept & (fold == split % fold.max() + 1)
        own = number[labels[fitted]]
        given = torch.from_numpy(vectors[fitted]), torch.from_numpy(own)
        weight, bias = (part.numpy() for part in discriminant(*given, int(number.max()) + 1, SHRINKAGE))
        # Brought to the size of logits that cross-entropy with smoothed labels leaves.
        size = 3 / np.median((vectors[fitted] @ weight.T + bias).max(axis=1))
        scores = scores_of(Bank(vectors[fitted], own, size * weight, size * bias))
        known = {name: score(vectors[held]) for name, score in scores.items()}
        spreads = {name: spread_of(values) for name, values in known.items()}
        unknown = with_sums({name: score(vectors[~kept]) for name, score in scores.items()}, spreads)
        found.append({name: separation(value, unknown[name]) for name, value in with_sums(known, spreads).items()})
    return found


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--run", "--data", "--weights", "--far", "--cache"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--unknown", type=Path, action="append", required=True)
    options = parser.parse_args()
    dataset, selected = load_dataset(options.data), load_selected(options.run)
    held, trained = Outputs.read(options.run / HELD_OUT), Outputs.read(options.run / TRAINED)
    if held is None or trained is None or not held.fold.all():
        raise SystemExit("the run has no folds")
    data = selected.recipe.data
    answers = Answers(data.resize, Normalise(data.mean, data.std, torch.device("cpu")), options.cache)
    started = build_network(
        network_config(selected.recipe.with_values({"network.attention": "none"}), 2), options.weights
    )
    order = {path: index for index, path in enumerate(held.path.tolist())}
    train = [sample for sample in dataset.train if str(sample.path) in order]
    rows = [order[str(sample.path)] for sample in train]
    labels, fold = held.labels[rows], held.fold[rows]
    close = near(answers("start-train", started.eval(), train), labels, fold)

    far_photos, folds = photos_in(options.far), int(held.fold.max())
    far, spreads = list[dict[str, dict[str, Figure]]](), list[dict[str, tuple[float, float]]]()
    for number in range(1, folds + 1):
        network = load_selected(options.run / "folds" / str(number)).network()
        kept = [sample for sample, of in zip(train, fold, strict=True) if of != number]
        bank = Bank(answers(f"fold{number}-train", network, kept), labels[fold != number], *head_of(network))
        scores = scores_of(bank)
        known = {name: score(held.pooled[held.fold == number].astype(np.float64)) for name, score in scores.items()}
        photos = answers(f"fold{number}-far", network, far_photos[number - 1 :: folds])
        own = {name: spread_of(values) for name, values in known.items()}
        unknown = with_sums({name: score(photos) for name, score in scores.items()}, own)
        far.append({name: separation(values, unknown[name]) for name, values in with_sums(known, own).items()})
        spreads.append(own)
    print(f"| score | AUROC left-out classes | FPR95 | AUROC {options.far.name} | FPR95 |\n|---|---|---|---|---|")
    for name in close[0]:
        cells = [np.mean([one[name][key].value for one in side]) for side in (close, far) for key in ("auroc", "fpr95")]
        print(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |", flush=True)

    network = selected.network()
    bank = Bank(trained.pooled.astype(np.float64), trained.labels, *head_of(network))
    scores = scores_of(bank)
    mean = {name: tuple(np.mean([one[name] for one in spreads], axis=0)) for name in scores}
    known = with_sums({n: score(answers("test", network, dataset.test)) for n, score in scores.items()}, mean)
    names = names_of(options.unknown)
    print(f"\n| score | {' | '.join(f'AUROC {name} | FPR95' for name in names)} |\n|---{'|---' * 2 * len(names)}|")
    vectors = [answers(n.replace("/", "-"), network, photos_in(f)) for n, f in zip(names, options.unknown, strict=True)]
    unknown = [with_sums({n: score(each) for n, score in scores.items()}, mean) for each in vectors]
    for name, values in known.items():
        figures = [separation(values, each[name]) for each in unknown]
        cells = [f"{f.value:.3f} ({f.low:.3f}–{f.high:.3f})" for each in figures for f in each.values()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
