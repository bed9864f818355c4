"""Batches: their order and random variation depend on seed, epoch and position alone.

No random state is carried from batch to batch, so a run can stop after any step and resume exactly, with any number
of workers: the order holds the seed of every sample, and a worker sets it before varying the image.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import v2

from training.data.samples import Sample
from training.data.store import Photos, Preparation, as_served, open_store, shrink_to
from training.recipe import DataRecipe, Recipe

Key = tuple[int, int]
"""An image's index and the seed of its variation."""


class Items(Dataset[tuple[Tensor, int]]):
    """What a network learns from or is evaluated on, with its class: images, or features of a frozen part.

    Args:
        load: returns the item of an index, varied by a seed.
        samples: with the classes.
    """

    def __init__(self, load: Callable[[int, int], Tensor], samples: Sequence[Sample]) -> None:
        self._load = load
        self._labels = [sample.label for sample in samples]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, key: Key | int) -> tuple[Tensor, int]:
        index, seed = key if isinstance(key, tuple) else (key, 0)
        return self._load(index, seed), self._labels[index]


def chosen(items: Items, samples: Sequence[Sample], part: Sequence[Sample]) -> Items:
    """Return the items of some of the samples.

    Args:
        items: of all samples.
        samples: all.
        part: some of them, in the order of the result.
    """
    if part is samples:
        return items
    position = {sample.path: index for index, sample in enumerate(samples)}
    return Items(partial(_chosen, items, [position[sample.path] for sample in part]), part)


def _chosen(items: Items, positions: Sequence[int], index: int, seed: int) -> Tensor:
    return items[positions[index], seed][0]


def varied_photos(photos: Photos, samples: Sequence[Sample], transform: v2.Transform) -> Items:
    """Return training images, (3, S, S) uint8; the seed of an access sets their variation."""
    return Items(partial(_varied, photos, transform), samples)


def prepared_photos(photos: Photos, samples: Sequence[Sample]) -> Items:
    """Return evaluation images as the service prepares them, (3, S, S) uint8."""
    return Items(partial(pixels_of, photos), samples)


def pixels_of(photos: Photos, index: int, _: int = 0) -> Tensor:
    """Return the pixels of a photo, (3, h, w) uint8."""
    return torch.from_numpy(np.array(photos[index][0])).permute(2, 0, 1)


def _varied(photos: Photos, transform: v2.Transform, index: int, seed: int) -> Tensor:
    torch.default_generator.manual_seed(seed)
    image: Tensor = transform(pixels_of(photos, index))
    return image.contiguous()


class EpochOrder(Sampler[list[Key]]):
    """The batches of one epoch, shuffled by seed and epoch; each process takes its part of every batch.

    Args:
        count: number of images n.
        seed: of the run.
        batch_size: over all processes together.
        rank: of this process.
        processes: number of them.
    """

    def __init__(self, count: int, seed: int, batch_size: int, rank: int = 0, processes: int = 1) -> None:
        self._count, self._seed = count, seed
        self._batch_size = min(batch_size, count)
        self._rank, self._processes = rank, processes
        self._epoch, self._first = 0, 0

    def __len__(self) -> int:
        # The last, smaller batch is dropped: batch norm's statistics would be of a handful of images.
        return self._count // self._batch_size

    def begin(self, epoch: int, first: int = 0) -> None:
        """Set the epoch of the next iteration, and its first batch."""
        self._epoch, self._first = epoch, first

    def __iter__(self) -> Iterator[list[Key]]:
        rng = np.random.default_rng([self._seed, self._epoch])
        order = rng.permutation(self._count)
        seeds = rng.integers(2**62, size=self._count)
        for batch in range(self._first, len(self)):
            begin = batch * self._batch_size
            share = slice(begin + self._rank, begin + self._batch_size, self._processes)
            yield list(zip(order[share].tolist(), seeds[share].tolist(), strict=True))


def step_seed(seed: int, epoch: int, batch: int) -> int:
    """Return the seed of dropout and mixing in one step."""
    return int(np.random.SeedSequence([seed, epoch, batch, 1]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def training_photos(samples: Sequence[Sample], recipe: Recipe, banner: int, cache: Path, *, progress: bool) -> Photos:
    """Return the decoded training photos, no larger than the recipe needs."""
    side = recipe.data.store_side or 2 * recipe.data.resize_size
    preparation = Preparation(f"shorter side <= {side}", shrink_to(side), banner)
    return open_store([sample.path for sample in samples], preparation, cache, progress=progress)


def served_photos(samples: Sequence[Sample], data: DataRecipe, banner: int, cache: Path, *, progress: bool) -> Photos:
    """Return evaluation photos as the network sees them: S×S pixels."""
    return open_store([sample.path for sample in samples], as_served(data.resize, banner), cache, progress=progress)
