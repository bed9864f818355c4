"""From a photo with its box and key points to the network's input: torchvision.transforms.v2 on tv_tensors.

Evaluation uses exactly the service's geometry (`model.photo.decode.prepare`), training varies it. Boxes and key
points follow every transform.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from model.contract.geometry import Resize
from model.photo.decode import DecodedImage, prepare
from training.data.samples import Box, Sample
from training.data.store import Pixels
from training.recipe import AugmentRecipe, Recipe

Item = dict[str, Any]


class ServedGeometry(v2.Transform):  # type: ignore[misc]  # torchvision is untyped
    """Scale and centre-crop as the service does, boxes and key points included.

    Args:
        resize: the manifest's geometry.
    """

    def __init__(self, resize: Resize) -> None:
        super().__init__()
        self.resize = resize

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Return the part of the image that stays, from the size of whatever the item holds."""
        height, width = v2._utils.query_size(flat_inputs)
        return {"box": self.resize.source_box(width, height)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Map one tensor of the item."""
        crop, (left, top, right, bottom) = self.resize.crop, params["box"]
        if isinstance(inpt, tv_tensors.Image):
            photo = Image.fromarray(np.ascontiguousarray(inpt.permute(1, 2, 0).numpy()))
            served = prepare(DecodedImage(photo, *photo.size, "RAW"), self.resize)
            return tv_tensors.Image(torch.from_numpy(served.copy()).permute(2, 0, 1))
        if not isinstance(inpt, tv_tensors.BoundingBoxes | tv_tensors.KeyPoints):
            return inpt
        origin = torch.tensor([left, top]).repeat(inpt.shape[-1] // 2)
        scale = torch.tensor([crop / (right - left), crop / (bottom - top)]).repeat(inpt.shape[-1] // 2)
        moved = (inpt.as_subclass(Tensor) - origin) * scale
        if isinstance(inpt, tv_tensors.KeyPoints):
            return tv_tensors.KeyPoints(moved, canvas_size=(crop, crop))
        boxes = tv_tensors.BoundingBoxes(moved, format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=(crop, crop))
        return F.clamp_bounding_boxes(boxes)


def box_on_input(box: Box, size: tuple[int, int], resize: Resize) -> Tensor:
    """Return a photo's box on the network's input, clipped to it, (4,).

    Args:
        box: (left, top, right, bottom), pixels of the photo; may stick out of it.
        size: (width, height) of the photo, pixels.
        resize: the manifest's geometry.
    """
    kind = tv_tensors.BoundingBoxFormat.XYXY
    boxes = tv_tensors.BoundingBoxes(torch.tensor([box]), format=kind, canvas_size=(size[1], size[0]))
    moved: Tensor = ServedGeometry(resize)(F.clamp_bounding_boxes(boxes))
    return moved[0].as_subclass(Tensor)


def training_transform(recipe: Recipe) -> v2.Transform:
    """Return the recipe's random variation, from a stored photo to (3, S, S) uint8."""
    augment, data = recipe.augment, recipe.data
    steps: list[v2.Transform] = []
    side = augment.size or data.input_size
    if augment.crop == "random_resized":
        steps.append(v2.RandomResizedCrop(side, augment.scale, augment.ratio, antialias=True))
    else:
        size = [data.resize_size] * (2 if data.resize_mode == "stretch" else 1)
        steps += [v2.Resize(size, antialias=True), v2.RandomCrop(side, pad_if_needed=True)]
    if augment.rotation:
        fill = [round(255 * mean) for mean in data.mean]
        steps.append(v2.RandomRotation(augment.rotation, v2.InterpolationMode.BILINEAR, fill=fill))
    steps += [v2.RandomHorizontalFlip(augment.flip), v2.ClampBoundingBoxes(), *_colours(augment)]
    if augment.erasing:
        steps.append(v2.RandomErasing(augment.erasing, value=[round(255 * mean) for mean in data.mean]))
    return v2.Compose(steps)


def batch_mixing(augment: AugmentRecipe, num_classes: int) -> v2.Transform | None:
    """Return what mixes the images of a batch and their labels (→ (N, K) floats), or None where nothing does."""
    mixes: list[v2.Transform] = []
    if augment.mixup:
        mixes.append(v2.MixUp(alpha=augment.mixup, num_classes=num_classes))
    if augment.cutmix:
        mixes.append(v2.CutMix(alpha=augment.cutmix, num_classes=num_classes))
    return v2.RandomChoice(mixes) if mixes else None


def make_item(pixels: Pixels, size: tuple[int, int], sample: Sample | None = None) -> Item:
    """Return an image, and a sample's box and key points scaled onto it, as tv_tensors.

    Args:
        pixels: (h, w, 3), perhaps scaled down from the original.
        size: (width, height) of the original that the sample's coordinates refer to, pixels.
        sample: whose box and key points are wanted; None for the image alone.
    """
    height, width = pixels.shape[:2]
    image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
    item: Item = {"image": tv_tensors.Image(image)}
    if sample is None:
        return item
    scale = torch.tensor([width / size[0], height / size[1]])
    if sample.box is not None:
        box = torch.tensor([sample.box]) * scale.repeat(2)
        kind = tv_tensors.BoundingBoxFormat.XYXY
        item["box"] = F.clamp_bounding_boxes(tv_tensors.BoundingBoxes(box, format=kind, canvas_size=(height, width)))
    if sample.points:
        points = torch.tensor(sample.points) * scale
        item["points"] = tv_tensors.KeyPoints(points, canvas_size=(height, width))
    return item


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


def _colours(augment: AugmentRecipe) -> list[v2.Transform]:
    steps: list[v2.Transform] = []
    jitter = (augment.brightness, augment.contrast, augment.saturation, augment.hue)
    if any(jitter):
        steps.append(v2.ColorJitter(*jitter))
    if augment.policy != "none":
        steps.append(v2.TrivialAugmentWide() if augment.policy == "trivial" else v2.RandAugment())
    return steps
