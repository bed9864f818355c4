"""Torchvision's classifiers with weights from a file: explained as they are, without training anything here."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torchvision.models
from torch import nn

from model.contract.geometry import Resize
from model.contract.manifest import Layer, Manifest, Triple, synthetic_images
from model.export.export import WeightsDtype, export
from model.export.parity import ParityReport
from model.network.backbone import WeightsError, read_state_dict

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


def export_torchvision(
    name: str,
    weights: Path,
    layer: str | Sequence[str],
    labels: Sequence[str],
    path: Path,
    *,
    resize: Resize | None = None,
    mean: Triple = IMAGENET_MEAN,
    std: Triple = IMAGENET_STD,
    images: npt.NDArray[np.uint8] | None = None,
    weights_dtype: WeightsDtype = "fp16",
    peers: bool = False,
) -> ParityReport:
    """Write one of torchvision's classifiers as one ONNX file with its Grad-CAM inside.

    Args:
        name: torchvision's, e.g. `resnet50`.
        weights: file that holds its whole state dict, the classifier for these labels included.
        layer: path of the module whose output is explained, e.g. `layer4`, or several, the last stage first.
        labels: of the K classes in the order of the logits.
        path: of the file to write.
        resize: geometry; by default 256 px, cropped to 224.
        mean: of the normalisation, RGB.
        std: likewise.
        images: real ones for the parity check, uint8, (n, S, S, 3); synthetic ones by default.
        weights_dtype: of the stored weights.
        peers: compare with other implementations too.

    Raises:
        WeightsError: there is no such network, or the file is of another one.
        ExportError, LayerError, GraphError, ParityError: as for `model.export.export`.
    """
    resize = resize or Resize(size=256, crop=224)
    manifest = Manifest(
        name=name,
        labels=tuple(labels),
        resize=resize,
        mean=mean,
        std=std,
        layers=(Layer(name="unknown", channels=1, grid=(1, 1)),),
    )
    images = synthetic_images(0, 4, resize.crop) if images is None else images
    network = load_classifier(name, weights, len(labels))
    return export(network, manifest, path, images=images, layer=layer, weights_dtype=weights_dtype, peers=peers)


def load_classifier(name: str, weights: Path, num_classes: int) -> nn.Module:
    """Return one of torchvision's classifiers with the weights of a file, in evaluation mode.

    Raises:
        WeightsError: there is no such network, or the file is of another one; names the keys.
    """
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise WeightsError(f"torchvision has no classifier {name!r}")
    network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    try:
        network.load_state_dict(read_state_dict(weights))
    except RuntimeError as error:  # torch lists missing, surplus and reshaped keys
        raise WeightsError(f"{weights.name} does not fit {name} with {num_classes} classes: {error}") from error
    return network.eval()
