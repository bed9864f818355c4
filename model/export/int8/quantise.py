"""The convolutional part of a graph in int8: QDQ, weights per channel, ranges from images, no training.

Source: onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, numpy_helper
from torch import nn

from model.contract.graph import codes_of_best, feeds
from model.explain.explainer import Explainer
from model.export.export import ExportError, store_as_fp16
from model.export.graphs import ancestors, drop_unread_nodes, initializers, producers_of
from model.export.int8.biases import correct_biases
from model.export.int8.convolutions import ACTIVATIONS
from model.export.int8.equalise import equalise
from model.export.int8.rounding import round_to_outputs
from model.export.int8.stem import can_read_bytes, mean_pixel, read_bytes, read_pixels

QUANTISED = ("Conv", "Add", "MaxPool", *ACTIVATIONS)


def quantise(model: ModelProto, explainer: Explainer, calibration: npt.NDArray[np.uint8]) -> ModelProto:
    """Return the graph with the convolutional part in int8: QDQ, weights per channel, ranges from the images.

    Weights use all eight bits, for processors with VNNI; without it sums of two products may saturate on AVX2.

    Args:
        model: the fp32 graph, last stage only.
        explainer: that it was traced from.
        calibration: RGB, uint8, (n, S, S, 3).
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    runs, size = _feeds(calibration, explainer), calibration.shape[1]
    with tempfile.TemporaryDirectory() as folder:
        path, quantised = Path(folder) / "fused.onnx", Path(folder) / "int8.onnx"
        fused = _fuse(model, path)
        first = read_pixels(fused, explainer)
        of_bytes = first if first is not None and can_read_bytes(first, size) else None
        names = _convolutional_part(fused, explainer, skipped=int(of_bytes is None))
        if not names:
            raise ExportError("int8 begins behind the first convolution, and there is no second")
        equalise(fused, runs)
        onnx.save(fused, str(path))
        quantize_static(
            str(path),
            str(quantised),
            _Reader(iter(runs)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_quantize=names,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        result = onnx.load(str(quantised))
    round_to_outputs(result, fused, names, runs)
    correct_biases(result, fused, names, runs)
    if of_bytes is not None:
        read_bytes(result, of_bytes, mean_pixel(explainer), size)
    # The runtime declares operator sets that the graph does not use.
    used = {node.domain for node in result.graph.node}
    kept = [entry for entry in result.opset_import if entry.domain in used or not entry.domain]
    del result.opset_import[:]
    result.opset_import.extend(kept)
    drop_unread_nodes(result)
    store_as_fp16(result, _exact_in_half(result))
    return result


def _feeds(images: npt.NDArray[np.uint8], explainer: Explainer) -> list[dict[str, Any]]:
    """Return the inputs of a run on each image."""
    codes = codes_of_best(1, explainer.num_classes)
    mark = None if explainer.marks is None else codes[0]
    return [feeds(image[None], *codes, mark=mark) for image in images]


def _exact_in_half(model: ModelProto) -> set[str]:
    """Return the names of the weights that float16 holds without loss, as the file that is compared with does."""
    names = set()
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2:
            values = numpy_helper.to_array(tensor)
            with np.errstate(over="ignore"):
                exact = np.array_equal(values.astype(np.float16), values)
            names |= {tensor.name} if exact else set()
    return names


class _Reader:
    """Feeds the images one by one to the calibration, which expects this interface."""

    def __init__(self, runs: Iterator[dict[str, Any]]) -> None:
        self._runs = runs

    def get_next(self) -> dict[str, Any] | None:
        """Return the inputs of the next run, or None at the end."""
        return next(self._runs, None)


def _fuse(model: ModelProto, path: Path) -> ModelProto:
    """Return the graph with batch norms folded into the convolutions, and a unique name for every node."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fused = onnx.load(str(path))
    for index, node in enumerate(fused.graph.node):
        node.name = f"{node.op_type}_{index}"
    return fused


def _convolutional_part(model: ModelProto, explainer: Explainer, skipped: int) -> list[str]:
    """Return the names of the nodes to quantise: of the backbone, up to its last convolution.

    The activation behind that is one of them, since it bounds what is rounded. What reads the marks branches off on the
    way, and stays as it is.

    Args:
        model: with unique names of nodes.
        explainer: that it was traced from.
        skipped: how many of the first convolutions stay in float.
    """
    modules = explainer.classifier.feature_extractor.modules()
    count = sum(isinstance(module, nn.Conv2d) for module in modules)
    producers, weights = producers_of(model.graph), initializers(model)
    needed = ancestors(producers, ["logits"], stop=())
    found = [node for node in model.graph.node if id(node) in needed and node.op_type == "Conv"]
    # The marks' readings, which may vote on the classes, are convolutions of cells in a row.
    stored = [node for node in found if node.input[1] in weights and len(weights[node.input[1]].dims) == 4][:count]
    behind = stored[skipped:]
    if not behind:
        return []
    inside = ancestors(producers, [node.output[0] for node in stored], stop=())
    nodes = [node for node in model.graph.node if id(node) in inside and node.op_type in QUANTISED]
    first, last = nodes.index(behind[0]), nodes.index(behind[-1])
    bounding = [node for node in model.graph.node if node.op_type in ACTIVATIONS and node.input[0] in behind[-1].output]
    return [node.name for node in (*nodes[first : last + 1], *bounding)]
