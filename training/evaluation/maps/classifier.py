"""A network that only classifies: no map is computed, and pixels may lie between levels.

A run classifies in torch. Of an exported file, the part of the graph from the image to the probabilities is cut out;
the rest of it computes maps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto, TensorProto
from onnx.utils import Extractor
from torch import Tensor

from model.contract.graph import softmax
from model.contract.manifest import Manifest
from model.export.export import read
from training.checkpoint import load_selected
from training.data.transforms import Normalise

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Classifier:
    """What faithfulness asks of a network.

    Attributes:
        classify: from images, levels of 255, (n, 3, S, S), float, to calibrated probabilities, (n, K).
        mean: colour that the network's normalisation maps to zero, levels of 255, (3,).
    """

    classify: Callable[[Tensor], Floats]
    mean: tuple[float, ...]


def classifier_of(model: Path) -> Classifier:
    """Return the classifier of a run's folder or of an exported file, on the CPU.

    Raises:
        ManifestError: the file is not an exported one.
    """
    return _of_file(model) if model.suffix == ".onnx" else _of_run(model)


def classifying_graph(model: ModelProto) -> ModelProto:
    """Return the part of an exported graph from `image`, float instead of uint8, to `probabilities`."""
    part: ModelProto = Extractor(model).extract_model(["image"], ["probabilities"])
    # The graph begins with a conversion to float, which then converts nothing.
    part.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    return part


def _of_file(path: Path) -> Classifier:
    import onnxruntime

    model = read(path)
    manifest = Manifest.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    graph = classifying_graph(model).SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def classify(images: Tensor) -> Floats:
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        probabilities: Floats = session.run(["probabilities"], {"image": pixels})[0]
        return probabilities

    return Classifier(classify, tuple(255 * value for value in manifest.mean))


def _of_run(folder: Path) -> Classifier:
    selected = load_selected(folder)
    network, data = selected.network(), selected.recipe.data
    normalise = Normalise(data.mean, data.std, torch.device("cpu"))

    def classify(images: Tensor) -> Floats:
        with torch.inference_mode():
            logits: Tensor = network(normalise(images))
        return softmax(logits.numpy(), selected.temperature)

    return Classifier(classify, tuple(255 * value for value in data.mean))
