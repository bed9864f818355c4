"""Batches: which image comes when, and with which random variation, as a function of seed, epoch and position alone.

Nothing random is carried from batch to batch, so a run can stop after any step and go on exactly, with any number of
workers: the order knows the seed of every sample, and each worker sets it before varying the image.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from training.data.samples import Sample
from training.data.store import Pixels, Preparation, as_served, open_store, shrink_to
from training.data.transforms import make_item
from training.recipe import DataRecipe, Recipe

Key = tuple[int, int]
"""An image's index and the seed of its variation."""


class Photos(Protocol):
    """A store, or files that are decoded as needed.

    Attributes:
        key: says what is in it.
    """

    key: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Pixels, tuple[int, int]]: ...


class VariedPhotos(Dataset[tuple[Tensor, int]]):
    """Training images: each access names the seed of the variation."""

    def __init__(self, photos: Photos, samples: Sequence[Sample], transform: v2.Transform) -> None:
        self._photos = photos
        self._labels = [sample.label for sample in samples]
        self._transform = transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        index, seed = key
        item = make_item(*self._photos[index])
        torch.default_generator.manual_seed(seed)
        image: Tensor = self._transform(item)["image"]
        return image.as_subclass(Tensor).contiguous(), self._labels[index]


class ServedPhotos(Dataset[tuple[Tensor, int]]):
    """Evaluation images, prepared exactly as the service does."""

    def __init__(self, photos: Photos, samples: Sequence[Sample]) -> None:
        self._photos = photos
        self._labels = [sample.label for sample in samples]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels, _ = self._photos[index]
        return torch.from_numpy(np.array(pixels)).permute(2, 0, 1), self._labels[index]


class EpochOrder(Sampler[list[Key]]):
    """The batches of one epoch, shuffled by seed and epoch; every process takes its share of each batch.

    Args:
        count: number of images n.
        seed: of the run.
        batch_size: over all processes together.
        rank: of this process.
        world: number of processes.
    """

    def __init__(self, count: int, seed: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self._count, self._seed = count, seed
        self._batch_size = min(batch_size, count)
        self._rank, self._world = rank, world
        self._epoch, self._first = 0, 0

    def __len__(self) -> int:
        # The last, smaller batch is left out: batch norm would judge by a handful of images.
        return self._count // self._batch_size

    def begin(self, epoch: int, first: int = 0) -> None:
        """Set the epoch that the next iteration yields, from its batch `first` on."""
        self._epoch, self._first = epoch, first

    def __iter__(self) -> Iterator[list[Key]]:
        rng = np.random.default_rng([self._seed, self._epoch])
        order = rng.permutation(self._count)
        seeds = rng.integers(2**62, size=self._count)
        for batch in range(self._first, len(self)):
            begin = batch * self._batch_size
            share = slice(begin + self._rank, begin + self._batch_size, self._world)
            yield list(zip(order[share].tolist(), seeds[share].tolist(), strict=True))


def step_seed(seed: int, epoch: int, batch: int) -> int:
    """Return the seed of dropout and mixing in one step."""
    return int(np.random.SeedSequence([seed, epoch, batch, 1]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def training_photos(samples: Sequence[Sample], recipe: Recipe, banner: int, cache: Path, *, progress: bool) -> Photos:
    """Return the decoded training photos, no larger than the recipe's variation needs."""
    side = recipe.data.store_side or 2 * recipe.data.resize_size
    preparation = Preparation(f"shorter side <= {side}", shrink_to(side), banner)
    return open_store([sample.path for sample in samples], preparation, cache, progress=progress)


def served_photos(samples: Sequence[Sample], data: DataRecipe, banner: int, cache: Path, *, progress: bool) -> Photos:
    """Return evaluation photos as the network sees them: S×S pixels."""
    return open_store([sample.path for sample in samples], as_served(data.resize, banner), cache, progress=progress)


def training_loader(
    varied: Dataset[tuple[Tensor, int]], order: EpochOrder, workers: int, *, pin: bool
) -> DataLoader[tuple[Tensor, int]]:
    """Return varied training batches in the given order: (n, 3, S, S) uint8 and (n,) int64."""
    return _loader(varied, workers, pin=pin, batch_sampler=order)


def evaluation_loader(
    served: Dataset[tuple[Tensor, int]], batch_size: int, workers: int = 0, *, pin: bool = False
) -> DataLoader[tuple[Tensor, int]]:
    """Return evaluation batches in the order of the samples, every image counted."""
    return _loader(served, workers, pin=pin, batch_size=batch_size)


def _loader(dataset: Dataset[tuple[Tensor, int]], workers: int, **options: Any) -> DataLoader[tuple[Tensor, int]]:
    pin = options.pop("pin")
    more: dict[str, Any] = {"persistent_workers": True, "prefetch_factor": 4} if workers else {}
    start: Callable[[int], None] = one_thread
    return DataLoader(dataset, num_workers=workers, pin_memory=pin, worker_init_fn=start, **more, **options)


def one_thread(_: int) -> None:
    """Set up a worker that varies or decodes images."""
    # Workers are processes already: threads inside them would only fight for the same cores.
    torch.set_num_threads(1)
