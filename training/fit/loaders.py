"""Batches of a run, from photos that are decoded once or from cached features of the frozen part."""

from typing import NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader

from training.data.batches import (
    EpochOrder,
    one_thread,
    prepared_photos,
    served_photos,
    training_photos,
    varied_photos,
)
from training.data.features import FeatureCache
from training.data.prepared import keep_parity_images
from training.data.samples import Sample
from training.data.transforms import training_transform
from training.fit.job import Job
from training.fit.learner import Learner
from training.fit.processes import ProcessGroup

Batches = DataLoader[tuple[Tensor, int]]


class Parts(NamedTuple):
    """The training part of a data set, divided.

    Attributes:
        train: for training.
        held: held out, for selection and calibration.
    """

    train: list[Sample]
    held: list[Sample]


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
    recipe, banner = job.recipe, job.dataset.banner
    visible = job.visible and processes.leads
    with processes.leader_first():  # it decodes; the others find its store
        photos = training_photos(parts.train, recipe, banner, job.cache, progress=visible)
        held_photos = served_photos(parts.held, recipe.data, banner, job.cache, progress=visible)
        held = prepared_photos(held_photos, parts.held)
        if learner.after is None:
            varied = varied_photos(photos, parts.train, training_transform(recipe))
        else:
            cache = FeatureCache(
                learner.network, learner.after, recipe, job.cache, processes.device, job.workers, progress=visible
            )
            varied = cache.varied(photos, parts.train)
            if parts.held:
                held = cache.prepared(held_photos, parts.held)
        if processes.leads:
            keep_parity_images(job.out, parts.held or parts.train, recipe.data.resize, banner)
    workers, pin = job.workers, processes.device.type == "cuda"
    train = DataLoader(
        varied,
        batch_sampler=order,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=one_thread,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
    )
    return Loaders(train, DataLoader(held, recipe.optim.batch_size, pin_memory=pin))
