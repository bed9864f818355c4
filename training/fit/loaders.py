"""Batches of a run, from photos that are decoded once or from cached features of the frozen part."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader

from training.data.batches import (
    EpochOrder,
    Items,
    chosen,
    prepared_photos,
    served_photos,
    training_photos,
    varied_photos,
)
from training.data.features import FeatureCache
from training.data.prepared import keep_parity_images
from training.data.samples import Sample
from training.data.store import Photos
from training.data.transforms import training_transform
from training.data.workers import loader
from training.fit.job import Job, Parts
from training.fit.learner import Learner
from training.fit.processes import ProcessGroup

Batches = DataLoader[tuple[Tensor, int]]


class Loaders(NamedTuple):
    """Batches of a run.

    Attributes:
        train: varied, in the run's order.
        held: prepared as the service does.
    """

    train: Batches
    held: Batches


def open_loaders(job: Job, parts: Parts, order: EpochOrder, learner: Learner, processes: ProcessGroup) -> Loaders:
    """Decode the photos that are not in the cache, and return the batches.

    Raises:
        DatasetError: a photo is damaged or missing.
    """
    with processes.leader_first():  # it decodes; the others find its store
        varied = _varied(job, parts.train, learner, processes)
        held = served_batches(job, parts.held, learner, processes)
        if processes.leads:
            keep_parity_images(job.out, parts.held or parts.train, job.recipe.data.resize, job.dataset.banner)
    workers = job.workers
    train = loader(
        varied,
        workers=workers,
        batch_sampler=order,
        pin_memory=processes.device.type == "cuda",
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
    )
    return Loaders(train, held)


def served_batches(job: Job, samples: Sequence[Sample], learner: Learner, processes: ProcessGroup) -> Batches:
    """Return batches of photos as the service prepares them, in order.

    Raises:
        DatasetError: a photo is damaged or missing.
    """
    stored = _stored(job, samples)
    photos = _served(job, stored, processes)
    if learner.after is None or not stored:
        items = prepared_photos(photos, stored)
    else:
        items = _features(job, learner, learner.after, processes).prepared(photos, stored)
    batch_size, pin = job.recipe.optim.batch_size, processes.device.type == "cuda"
    return DataLoader(chosen(items, stored, samples), batch_size, pin_memory=pin)


def served_images(job: Job, samples: Sequence[Sample], processes: ProcessGroup) -> Items:
    """Return photos as the service prepares them, (3, S, S) uint8, in order.

    Raises:
        DatasetError: a photo is damaged or missing.
    """
    stored = _stored(job, samples)
    return chosen(prepared_photos(_served(job, stored, processes), stored), stored, samples)


def _served(job: Job, stored: Sequence[Sample], processes: ProcessGroup) -> Photos:
    visible = job.visible and processes.leads
    return served_photos(stored, job.recipe.data, job.dataset.banner, job.cache, progress=visible)


def _varied(job: Job, samples: Sequence[Sample], learner: Learner, processes: ProcessGroup) -> Items:
    """Return what the network learns from."""
    stored, visible = _stored(job, samples), job.visible and processes.leads
    photos = training_photos(stored, job.recipe, job.dataset.banner, job.cache, progress=visible)
    if learner.after is None:
        items = varied_photos(photos, stored, training_transform(job.recipe))
    else:
        items = _features(job, learner, learner.after, processes).varied(photos, stored)
    return chosen(items, stored, samples)


def _stored(job: Job, samples: Sequence[Sample]) -> Sequence[Sample]:
    """Return the photos of the store that these are read from: parts that are given are of one store."""
    return samples if job.parts is None else job.dataset.train


def _features(job: Job, learner: Learner, step: str, processes: ProcessGroup) -> FeatureCache:
    visible = job.visible and processes.leads
    return FeatureCache(learner.network, step, job.recipe, job.cache, processes.device, job.workers, progress=visible)
