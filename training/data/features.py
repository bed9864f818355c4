"""Features of the backbone's frozen part, computed once instead of in every epoch.

What never learns always answers the same, so a few random variations of every image can go through it once and be
kept as float16: on two cores the rest of a MobileNetV2 then trains ten times faster.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import v2
from tqdm import tqdm

from model.files import replacing
from model.network.backbone import StageError
from model.network.network import Network
from training.data.batches import Key, Photos, ServedPhotos, VariedPhotos
from training.data.samples import Sample
from training.data.transforms import Normalise, training_transform
from training.errors import RecipeError
from training.recipe import OptimRecipe, Recipe

Halves = npt.NDArray[np.float16]
BATCH = 32


def frozen_step(network: Network, recipe: OptimRecipe) -> str | None:
    """Return the last step of the backbone that a recipe freezes, or None where all of it learns.

    Raises:
        RecipeError: the backbone has no such stage or step.
    """
    try:
        return network.backbone.frozen_step(recipe.freeze_stages, recipe.freeze_until)
    except StageError as error:
        raise RecipeError(f"optim.{error}") from error


def cached_step(network: Network, recipe: Recipe) -> str | None:
    """Return the step whose features stand in for images under a recipe, or None where they do not.

    Raises:
        RecipeError: the backbone has no such stage or step.
    """
    return frozen_step(network, recipe.optim) if recipe.data.cached_views else None


class AsFloats:
    """Cached features → floats on the device; stands where `Normalise` stands for images."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __call__(self, features: Tensor) -> Tensor:
        """Return (N, C, h, w) floats of (N, C, h, w) halves."""
        return features.to(self._device, non_blocking=True).float()


class Features:
    """Memory-mapped features of images: (views, n, C, h, w) halves."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._map: Halves | None = None

    def get(self, view: int, index: int) -> Tensor:
        """Return the features of one variation of an image, (C, h, w)."""
        if self._map is None:
            self._map = np.load(self._path, mmap_mode="r")
        return torch.from_numpy(np.array(self._map[view % len(self._map), index]))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_map": None}


class VariedFeatures(TorchDataset[tuple[Tensor, int]]):
    """Training images as cached features: the seed of an access chooses the variation."""

    def __init__(self, features: Features, samples: Sequence[Sample]) -> None:
        self._features = features
        self._labels = [sample.label for sample in samples]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        index, seed = key
        return self._features.get(seed, index), self._labels[index]


class ServedFeatures(TorchDataset[tuple[Tensor, int]]):
    """Evaluation images as cached features."""

    def __init__(self, features: Features, samples: Sequence[Sample]) -> None:
        self._features = features
        self._labels = [sample.label for sample in samples]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._features.get(0, index), self._labels[index]


class FeatureCache:
    """Computes and keeps what the frozen part of a network answers.

    Args:
        network: whose early part is frozen.
        step: last step of that part.
        recipe: its variation, geometry and normalisation.
        folder: where features are kept.
        device: to compute on.
        workers: processes that vary images.
        progress: show a bar.
    """

    def __init__(
        self,
        network: Network,
        step: str,
        recipe: Recipe,
        folder: Path,
        device: torch.device,
        workers: int = 0,
        *,
        progress: bool = True,
    ) -> None:
        self._network_key = _weights_key(network.backbone.modules_until(step))
        part = network.backbone.fused_until(step)
        self._part = part.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._recipe, self._folder, self._device = recipe, folder, device
        self._workers, self._progress = workers, progress
        self._normalise = Normalise(recipe.data.mean, recipe.data.std, device, channels_last=True)

    def varied(self, photos: Photos, samples: Sequence[Sample]) -> Features:
        """Return the features of every variation of training images; the variations are the same for every seed."""
        transform = training_transform(self._recipe)
        views = self._recipe.data.cached_views
        return self._open(
            photos, _settings(self._recipe), self._varied_batches(photos, samples, transform, views), views
        )

    def served(self, photos: Photos, samples: Sequence[Sample]) -> Features:
        """Return the features of evaluation images."""
        settings: dict[str, object] = {"mean": self._recipe.data.mean, "std": self._recipe.data.std}
        batches: Iterator[Tensor] = (
            images for images, _ in DataLoader(ServedPhotos(photos, samples), BATCH, num_workers=self._workers)
        )
        return self._open(photos, settings, batches, 1)

    @torch.no_grad()
    def answer(self, images: Tensor) -> Tensor:
        """Return what the frozen part answers to uint8 images (n, 3, S, S): (n, C, h, w) floats."""
        features: Tensor = self._part(self._normalise(images))
        return features

    def _varied_batches(
        self, photos: Photos, samples: Sequence[Sample], transform: v2.Transform, views: int
    ) -> Iterator[Tensor]:
        varied = VariedPhotos(photos, samples, transform)
        keys = [(index, view * len(samples) + index) for view in range(views) for index in range(len(samples))]
        batches = [keys[at : at + BATCH] for at in range(0, len(keys), BATCH)]
        for images, _ in DataLoader(varied, batch_sampler=batches, num_workers=self._workers):
            yield images

    def _open(self, photos: Photos, settings: dict[str, object], batches: Iterator[Tensor], views: int) -> Features:
        words = [photos.key, self._network_key, json.dumps(settings, sort_keys=True), str(views)]
        path = self._folder / f"{hashlib.sha256('|'.join(words).encode()).hexdigest()[:24]}.features.npy"
        if not path.is_file():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._write(path, batches, views, len(photos))
        return Features(path)

    def _write(self, path: Path, batches: Iterator[Tensor], views: int, count: int) -> None:
        bar = tqdm(
            total=views * count,
            desc="computing frozen features once",
            unit="img",
            disable=None if self._progress else True,
            leave=False,
        )
        at, kept = 0, None
        with replacing(path) as file, bar:
            for images in batches:
                features = self.answer(images)
                if kept is None:
                    shape = (views, count, *features.shape[1:])
                    whole = np.lib.format.open_memmap(file.name, mode="w+", dtype=np.float16, shape=shape)
                    kept = whole.reshape(views * count, *features.shape[1:])
                kept[at : at + len(features)] = features.cpu().half().numpy()
                at += len(features)
                bar.update(len(features))
            if kept is None:
                raise RecipeError("there are no images to compute features of")
            whole.flush()


def _settings(recipe: Recipe) -> dict[str, object]:
    """Return what training features depend on beside photos and weights: mixing, for one, comes after them."""
    augment, data = recipe.to_dict()["augment"], recipe.to_dict()["data"]
    before = {name: value for name, value in augment.items() if name not in ("mixup", "cutmix", "mix_probability")}
    geometry = ("input_size", "resize_mode", "resize_size", "mean", "std")
    return before | {name: data[name] for name in geometry}


def _weights_key(modules: Sequence[nn.Module]) -> str:
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
