"""A data set: samples with their labels, and the division into kept and held-out ones."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from model.contract.taxonomy import Taxonomy
from training.data.marks import Marks

Box = tuple[float, float, float, float]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Sample:
    """One image with its label, and its box and parts where known.

    Attributes:
        path: of the file.
        label: class index, 0-based.
        box: around the object, (left, top, right, bottom), pixels of the upright image; None where unknown.
            It may extend beyond the image; the transforms clip it.
        parts: visible parts of the object: index into the data set's names, and centre (x, y), pixels.
        mask: picture of the object's pixels, white on black, as large as the photo.
        digest: of the file's bytes; empty before `training.data.check.examine`.
    """

    path: Path
    label: int
    box: Box | None = None
    parts: tuple[tuple[int, float, float], ...] = ()
    mask: Path | None = None
    digest: str = ""


@dataclass(frozen=True, eq=False)
class Attributes:
    """What a field guide says of the classes.

    Attributes:
        names: of the A attributes, as the data set writes them: `has_crown_color::yellow`.
        table: share of observers who see an attribute on a class, (K, A), in [0, 1].
    """

    names: tuple[str, ...]
    table: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Dataset:
    """A data set with its official (or seeded) division.

    Attributes:
        name: for people and provenance.
        labels: of the K classes, in order, as shown to people.
        train: training part, held-out images included.
        test: test part; may be empty.
        banner: rows to crop off the bottom of every photo, pixels.
        licence: what the data allow.
        notices: oddities to report to the user.
        skipped: damaged photos that were left out.
        parts: names of the parts that samples refer to.
        attributes: of the classes; None where the data set has none.
        marks: of the classes, with readable names; None where the data set has none.
        taxonomy: of the classes; None likewise.
    """

    name: str
    labels: tuple[str, ...]
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    banner: int = 0
    licence: str = ""
    notices: tuple[str, ...] = field(default=())
    skipped: int = 0
    parts: tuple[str, ...] = ()
    attributes: Attributes | None = None
    marks: Marks | None = None
    taxonomy: Taxonomy | None = None

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.labels)


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most so many of the items, spread evenly over all."""
    chosen = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[index] for index in chosen]


def hold_out(samples: Sequence[Sample], fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Divide the training part into what is trained on and what is held out, class by class.

    The held-out images are `fraction` of all, spread over the classes as evenly as rounding allows; a class with one
    image keeps it for training.

    Args:
        samples: the training part.
        fraction: held out, in [0, 1).
        seed: which images those are.

    Returns:
        Kept and held-out samples, each in the given order.
    """
    rng = np.random.default_rng(seed)
    held: set[int] = set()
    for members in _by_label(samples).values():
        count = min(int(np.floor(fraction * len(members) + rng.random())), len(members) - 1)
        held.update(rng.permutation(members)[:count].tolist())
    if fraction > 0 and not held:  # a tiny data set: one image is better than none
        large = max(_by_label(samples).values(), key=len, default=[])
        held.update(large[:1] if len(large) > 1 else [])
    kept = [sample for index, sample in enumerate(samples) if index not in held]
    return kept, [sample for index, sample in enumerate(samples) if index in held]


def _by_label(samples: Iterable[Sample]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(sample.label, []).append(index)
    return groups
