"""How dependent several photos of one individual are: of n photos each counts as n^−dependence of one.

Fitted to groups of photos of one class, which no network was trained on: data sets rarely say which photos show the
same individual. Photos of one individual are more alike, so that the number is a lower bound of theirs.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from model.contract.manifest import Individual
from training.calibration.outputs import HELD_OUT, Outputs

SIZES = (2, 3, 4, 5)
"""Photos in a group."""
SHUFFLES = 20
"""How often the photos are grouped anew."""
SEED = 0
FEWEST_GROUPS = 50
"""Below, nothing is fitted."""

Groups = tuple[npt.NDArray[np.float64], npt.NDArray[np.integer]]


def individual_of(run: Path, temperature: float) -> Individual | None:
    """Return what a run's answers say of several photos; None where it kept none, or too few.

    Args:
        run: its folder.
        temperature: of the probabilities.

    Raises:
        CheckpointError: the answers cannot be read.
    """
    held = Outputs.read(run / HELD_OUT)
    return None if held is None else fit_individual(held, temperature)


def fit_individual(held: Outputs, temperature: float) -> Individual | None:
    """Return the dependence that makes the classes of groups of photos likeliest; None for too few photos.

    All sizes of a group count the same. The photos of a group were answered by one network: those of several err
    together less.

    Args:
        held: answers for photos that the answering network was not trained on.
        temperature: of the probabilities.
    """
    each = log_softmax(held.logits.astype(np.float64) / temperature, axis=1)
    generator = np.random.default_rng(SEED)
    groups = {size: _groups(held, each, size, generator) for size in SIZES}
    groups = {size: found for size, found in groups.items() if len(found[1]) >= FEWEST_GROUPS * SHUFFLES}
    if not groups:
        return None

    def loss(dependence: float) -> float:
        return sum(_nll(products * size**-dependence, labels) for size, (products, labels) in groups.items())

    found = minimize_scalar(loss, bounds=(0, 1), method="bounded").x
    return Individual(dependence=round(float(found), 4), num_photos=len(held.labels))


def _groups(held: Outputs, each: npt.NDArray[np.float64], size: int, generator: np.random.Generator) -> Groups:
    """Return the product of the photos' probabilities of each group, as logarithms, (G, K), and its class, (G,)."""
    products, labels = [np.zeros((0, each.shape[1]))], [np.zeros(0, np.int64)]
    for fold, label in np.unique(np.stack([held.fold, held.labels], axis=1), axis=0):
        photos = np.flatnonzero((held.fold == fold) & (held.labels == label))
        count = len(photos) // size
        for _ in range(SHUFFLES):
            chosen = generator.permutation(photos)[: count * size].reshape(count, size)
            products.append(each[chosen].sum(axis=1))
            labels.append(np.full(count, label))
    return np.concatenate(products), np.concatenate(labels)


def _nll(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.integer]) -> float:
    return -float(log_softmax(scores, axis=1)[np.arange(len(labels)), labels].mean())
