"""From a stored photo to the network's input: torchvision.transforms.v2, and boxes in the service's geometry.

Evaluation prepares photos exactly as the service does (`model.photo.decode.prepare`); training varies them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import v2

from model.contract.geometry import Resize
from training.data.samples import Box
from training.recipe import AugmentRecipe, Recipe


def box_on_input(box: Box, size: tuple[int, int], resize: Resize) -> Tensor:
    """Return a photo's box on the network's input, clipped to it, (4,).

    Args:
        box: (left, top, right, bottom), pixels of the photo; may extend beyond it.
        size: (width, height) of the photo, pixels.
        resize: the manifest's geometry.
    """
    left, top, right, bottom = resize.source_box(*size)
    clipped = torch.minimum(torch.tensor(box).clamp_min(0), torch.tensor([*size, *size]))
    scale = torch.tensor([resize.crop / (right - left), resize.crop / (bottom - top)] * 2)
    return ((clipped - torch.tensor([left, top] * 2)) * scale).clamp(0, resize.crop)


def training_transform(recipe: Recipe) -> v2.Transform:
    """Return the recipe's random variation, from a stored photo to (3, S, S) uint8."""
    augment, data = recipe.augment, recipe.data
    steps: list[v2.Transform] = []
    side, fill = augment.size or data.input_size, [round(255 * mean) for mean in data.mean]
    if augment.crop == "random_resized":
        steps.append(v2.RandomResizedCrop(side, augment.scale, augment.ratio, antialias=True))
    else:
        size = [data.resize_size] * (2 if data.resize_mode == "stretch" else 1)
        steps += [v2.Resize(size, antialias=True), v2.RandomCrop(side, pad_if_needed=True)]
    if augment.rotation:
        steps.append(v2.RandomRotation(augment.rotation, v2.InterpolationMode.BILINEAR, fill=fill))
    steps.append(v2.RandomHorizontalFlip(augment.flip))
    jitter = (augment.brightness, augment.contrast, augment.saturation, augment.hue)
    if any(jitter):
        steps.append(v2.ColorJitter(*jitter))
    if augment.policy != "none":
        steps.append(v2.TrivialAugmentWide() if augment.policy == "trivial" else v2.RandAugment())
    if augment.erasing:
        steps.append(v2.RandomErasing(augment.erasing, value=fill))
    return v2.Compose(steps)


def batch_mixing(augment: AugmentRecipe, num_classes: int) -> v2.Transform | None:
    """Return the mixing of a batch's images and labels (→ (N, K) floats), or None if the recipe has none."""
    alphas = ((v2.MixUp, augment.mixup), (v2.CutMix, augment.cutmix))
    mixes = [mix(alpha=alpha, num_classes=num_classes) for mix, alpha in alphas if alpha]
    return v2.RandomChoice(mixes) if mixes else None


class Normalise:
    """uint8 images → normalised floats, on the device they are moved to."""

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], device: torch.device, channels_last: bool = False
    ) -> None:
        self._device = device
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._mean = 255 * torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._std = 255 * torch.tensor(std, device=device).view(1, 3, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Return (N, 3, S, S) floats of (N, 3, S, S) bytes."""
        moved = images.to(self._device, non_blocking=True).float()
        return ((moved - self._mean) / self._std).contiguous(memory_format=self._format)
