"""Torchvision's classifiers with weights from a file: explained as they are, without training."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import torchvision.models
from torch import nn

from model.contract.geometry import Resize
from model.contract.manifest import Layer, Manifest, Triple, synthetic_images
from model.export.export import WeightsDtype, export
from model.export.parity import ParityReport
from model.network.backbone import WeightsError, load_exactly, read_state_dict

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
    build: Mapping[str, object] = MappingProxyType({}),
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
        build: arguments of torchvision's constructor that the weights do not show, such as `transform_input`.

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
    network = load_classifier(name, weights, len(labels), build)
    return export(network, manifest, path, images=images, layer=layer, weights_dtype=weights_dtype, peers=peers)


def load_classifier(
    name: str, weights: Path, num_classes: int, build: Mapping[str, object] = MappingProxyType({})
) -> nn.Module:
    """Return one of torchvision's classifiers with the weights of a file, in evaluation mode.

    Args:
        name: torchvision's.
        weights: file of its state dict; heads that only help training (`aux1`, `AuxLogits`) are optional.
        num_classes: K.
        build: what a state dict does not say: arguments of torchvision's constructor.

    Raises:
        WeightsError: there is no such network, the file is of another one, or does not hold all that is needed.
    """
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise WeightsError(f"torchvision has no classifier {name!r}")
    network = _built(name, num_classes, build)
    if hasattr(network, "transform_input") and "transform_input" not in build:
        raise WeightsError(
            f"a state dict does not say whether {name} changes its input's normalisation: give --build "
            "transform_input=true, as torchvision's own weights need it, or transform_input=false"
        )
    optional: set[str] = set()
    if hasattr(network, "aux_logits"):  # its further heads only help training
        optional = {key for key in network.state_dict() if key.lower().startswith("aux")}
        network = _built(name, num_classes, {**build, "aux_logits": False})
    refusal = f"{weights.name} does not fit {name} with {num_classes} classes"
    load_exactly(network, read_state_dict(weights), refusal, optional)
    return network.eval()


def _built(name: str, num_classes: int, build: Mapping[str, object]) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its initial weights, which are replaced
            network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **build)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{key}={value}" for key, value in build.items())
        raise WeightsError(f"{name} cannot be built with {given or 'its defaults'}: {error}") from error
    return network
