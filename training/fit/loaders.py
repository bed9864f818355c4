"""The photos of a run: decoded once, perhaps as features of the frozen part, and given out in batches."""

from typing import NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from training.data.batches import (
    EpochOrder,
    Photos,
    ServedPhotos,
    VariedPhotos,
    evaluation_loader,
    served_photos,
    training_loader,
    training_photos,
)
from training.data.features import FeatureCache, ServedFeatures, VariedFeatures
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
        train: what is trained on.
        held: what is held out, for selection and calibration.
    """

    train: list[Sample]
    held: list[Sample]


class Loaders(NamedTuple):
    """Batches of a run.

    Attributes:
        train: varied, in the order's order.
        held: as the service prepares them.
    """

    train: Batches
    held: Batches


def open_loaders(job: Job, parts: Parts, order: EpochOrder, learner: Learner, processes: ProcessGroup) -> Loaders:
    """Decode what is not decoded yet, and return the batches.

    Raises:
        DatasetError: a photo is damaged or missing.
    """
    recipe, banner = job.recipe, job.dataset.banner
    visible = job.visible and processes.leads
    with processes.leader_first():  # it decodes; the others then find its store
        photos = training_photos(parts.train, recipe, banner, job.cache, progress=visible)
        held = served_photos(parts.held, recipe.data, banner, job.cache, progress=visible)
        varied, served = _datasets(job, parts, (photos, held), learner, processes)
        if processes.leads:
            keep_parity_images(job.out, parts.held or parts.train, recipe.data.resize, banner)
    pin = processes.device.type == "cuda"
    return Loaders(
        training_loader(varied, order, job.workers, pin=pin),
        evaluation_loader(served, recipe.optim.batch_size, pin=pin),
    )


def _datasets(
    job: Job, parts: Parts, photos: tuple[Photos, Photos], learner: Learner, processes: ProcessGroup
) -> tuple[TorchDataset[tuple[Tensor, int]], TorchDataset[tuple[Tensor, int]]]:
    """Return the items of both parts: images, or features where the learner goes on from a step."""
    train, held = photos
    if learner.after is None:
        return VariedPhotos(train, parts.train, training_transform(job.recipe)), ServedPhotos(held, parts.held)
    visible = job.visible and processes.leads
    cache = FeatureCache(
        learner.network, learner.after, job.recipe, job.cache, processes.device, job.workers, progress=visible
    )
    varied = VariedFeatures(cache.varied(train, parts.train), parts.train)
    # Without held-out photos there is nothing to compute features of.
    return varied, ServedFeatures(cache.served(held, parts.held), parts.held) if parts.held else ServedPhotos(held, [])
