"""Smaller arithmetic, written only within its quality limits: fp16 for GPUs, static int8 for CPUs.

In both, the head, the probabilities, what reads marks, embedding and novelty, and the sums of Grad-CAM stay in float32,
as do inputs and outputs.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, numpy_helper
from torch import nn

from model.contract.graph import codes_of_best, feeds
from model.contract.manifest import Manifest
from model.contract.variant import GATE, difference, full_path
from model.explain.explainer import Explainer
from model.explain.fitted import NOTHING, Fitted
from model.export.branches import ancestors
from model.export.export import ExportError, architecture, check_images, complete, explainer_of, store_as_fp16, write
from model.export.parity import ParityReport, check_parity
from model.export.quality_limits import HeldOut, check, measure
from model.export.rounding import round_to_outputs
from model.export.running import session
from model.export.stem import read_pixels, stem_length
from model.export.tracing import drop_unused_initializers, initializers, trace

HALF_TOLERANCE = 0.05
"""Of the fp16 graph against float64, in the units of `ParityReport`: a sanity check; the quality limits decide."""
QUANTISED = ("Conv", "Add", "MaxPool", "Relu", "Clip")


def export_variant(
    network: nn.Module,
    manifest: Manifest,
    path: Path,
    precision: Literal["fp16", "int8"],
    *,
    held_out: HeldOut,
    calibration: npt.NDArray[np.uint8],
    layer: str | Sequence[str] = (),
    fitted: Fitted = NOTHING,
) -> dict[str, float]:
    """Write a network in a smaller precision, if it stays within its quality limits on photos.

    The comparison is with fp32 as `model.export.export` writes it by default, with weights rounded to fp16: the file
    that would be served instead.

    An int8 file explains the last stage only and holds no weights to build the network from again.

    Args:
        network: as for `model.export.export`.
        manifest: likewise.
        path: of the file.
        precision: `fp16`, or static `int8` (QDQ, per channel).
        held_out: photos of train for the comparison, not trained on as far as there are any.
        calibration: other photos of train, from which int8 takes ranges and rounding, RGB, uint8, (n, S, S, 3).
        layer: of a foreign module, as for `model.export.export`.
        fitted: likewise.

    Returns:
        What `model.export.quality_limits.measure` found; the manifest's metrics hold it too, each name behind `gate.`.

    Raises:
        ExportError: network, manifest and images do not fit together, there is nothing to quantise, or the path
            `NAME.int8.onnx` names a variant of a file `NAME.onnx` that is of another model.
        QualityError: the variant loses too much; nothing was written.
    """
    for images in (held_out.images, calibration):
        check_images(images, manifest)
    if len(held_out.labels) != len(held_out.images):
        raise ExportError(f"{len(held_out.labels)} labels for {len(held_out.images)} held-out images")
    # Against the fp32 file as it is served: its weights are stored as fp16.
    explainer = explainer_of(network, manifest, layer, "fp16", fitted)
    explainer.classifier.layers = explainer.classifier.layers[:1]
    reference = trace(explainer, manifest.input_size)
    if precision == "int8":
        model = quantise(reference, explainer, calibration)
        runtime = session(model.SerializeToString())
        report = ParityReport(0)
        facts = {**architecture(network), "network": {}}
    else:
        explainer = explainer_of(network, manifest, layer, "fp16", fitted)
        explainer.classifier.feature_extractor.half()
        model = trace(explainer, manifest.input_size)
        runtime = session(model.SerializeToString())
        report = check_parity(runtime, explainer, calibration[:3], HALF_TOLERANCE)
        facts = architecture(network)
    figures = measure(reference.SerializeToString(), runtime, held_out)
    check(figures, precision)
    measured = manifest.metrics | {f"{GATE}{name}": value for name, value in figures.items()}
    facts |= {"precision": precision, "weights_dtype": precision, "metrics": measured}
    completed = complete(manifest, model, explainer, report, facts, runtime)
    write(model, completed.model_copy(update={"variant_of": _sha256_beside(path, completed)}), path)
    return figures


def _sha256_beside(path: Path, variant: Manifest) -> str:
    """Return the sha256 of the fp32 file that a variant is written beside; empty where there is none.

    Raises:
        ExportError: that file is of another model, and would be served with this variant.
    """
    full = full_path(path, variant.precision)
    if full is None or not full.is_file():
        return ""
    sha256 = hashlib.sha256(full.read_bytes()).hexdigest()
    described = Manifest.from_metadata({entry.key: entry.value for entry in onnx.load(str(full)).metadata_props})
    written = Manifest.from_metadata(variant.to_metadata())  # as it will be read: lists for tuples
    if fault := difference(described, sha256, written, variant.precision):
        raise ExportError(f"{path} would be no variant of {full}: {fault}")
    return sha256


def quantise(model: ModelProto, explainer: Explainer, calibration: npt.NDArray[np.uint8]) -> ModelProto:
    """Return the graph with the convolutional part in int8: QDQ, weights per channel, ranges from the images.

    Weights use all eight bits, for processors with VNNI; without it sums of two products may saturate on AVX2.

    Args:
        model: the fp32 graph, last stage only.
        explainer: that it was traced from.
        calibration: RGB, uint8, (n, S, S, 3).

    Source: onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder:
        path, quantised = Path(folder) / "fused.onnx", Path(folder) / "int8.onnx"
        fused = _fuse(model, path)
        names = _convolutional_part(fused, explainer)
        if not names:
            raise ExportError("int8 begins behind the first convolution, and there is no second")
        read_pixels(fused, explainer)
        onnx.save(fused, str(path))
        quantize_static(
            str(path),
            str(quantised),
            _Reader(_feeds(calibration, explainer)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_quantize=names,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        result = onnx.load(str(quantised))
    round_to_outputs(result, fused, names, _feeds(calibration, explainer))
    # The runtime declares operator sets that the graph does not use.
    used = {node.domain for node in result.graph.node}
    kept = [entry for entry in result.opset_import if entry.domain in used or not entry.domain]
    del result.opset_import[:]
    result.opset_import.extend(kept)
    drop_unused_initializers(result)
    store_as_fp16(result, _exact_in_half(result))
    return result


def _feeds(images: npt.NDArray[np.uint8], explainer: Explainer) -> Iterator[dict[str, Any]]:
    """Yield the inputs of a run on each image."""
    codes = codes_of_best(1, explainer.num_classes)
    mark = None if explainer.marks is None else codes[0]
    return (feeds(image[None], *codes, mark=mark) for image in images)


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


def _convolutional_part(model: ModelProto, explainer: Explainer) -> list[str]:
    """Return the names of the nodes to quantise: of the backbone, from behind its stem to its last convolution.

    The activation behind that is one of them, since it bounds what is rounded. What reads the marks branches off on the
    way, and stays as it is.
    """
    modules = explainer.classifier.feature_extractor.modules()
    count = sum(isinstance(module, nn.Conv2d) for module in modules)
    producers, weights = {name: node for node in model.graph.node for name in node.output}, initializers(model)
    needed = ancestors(producers, ["logits"], stop=())
    found = [node for node in model.graph.node if id(node) in needed and node.op_type == "Conv"]
    # The marks' readings, which may vote on the classes, are convolutions of cells in a row.
    convolutions = [node for node in found if node.input[1] in weights and len(weights[node.input[1]].dims) == 4][
        :count
    ]
    if not convolutions:
        return []
    inside = ancestors(producers, [node.output[0] for node in convolutions], stop=())
    nodes = [node for node in model.graph.node if id(node) in inside and node.op_type in QUANTISED]
    behind = convolutions[stem_length(convolutions, weights) :]
    if not behind:
        return []
    first, last = nodes.index(behind[0]), nodes.index(behind[-1])
    bounding = [
        node for node in model.graph.node if node.op_type in ("Clip", "Relu") and node.input[0] in behind[-1].output
    ]
    return [node.name for node in (*nodes[first : last + 1], *bounding)]
