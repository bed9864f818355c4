"""A model of a few hundred bytes that keeps the graph contract: logits are weighted mean colours.

Its one layer is the image itself. Made with `onnx.helper`, so that the tests of the engine need neither torch nor the
bundled weights.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model.contract.geometry import Resize
from model.contract.manifest import Layer, Manifest, SelfCheck, synthetic_images

SIDE = 8
LABELS = ("Red bird", "Green bird", "Blue bird", "Grey bird")
WEIGHTS = np.array([[4, 0, 0, 1], [0, 4, 0, 1], [0, 0, 4, 1]], dtype=np.float32)
NONE = len(LABELS)


def tiny_manifest(**changes: Any) -> Manifest:
    """Return the manifest of the tiny model, with changes."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "labels": LABELS,
        "resize": Resize(size=SIDE, crop=SIDE),
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "has_attention": True,
        "layers": (Layer(name="pixels", channels=3, grid=(SIDE, SIDE)),),
    }
    return Manifest(**{**fields, **changes})


def tiny_logits(images: np.ndarray, weights: np.ndarray = WEIGHTS) -> np.ndarray:
    """Return what the tiny model must answer for uint8 images (N, S, S, 3)."""
    return (images.astype(np.float32) / 255).mean(axis=(1, 2)) @ weights


def tiny_self_check(weights: np.ndarray = WEIGHTS, offset: float = 0.0) -> SelfCheck:
    """Return a self-check of the tiny model; one that fails with an `offset`."""
    logits = tiny_logits(synthetic_images(3, 2, SIDE), weights) + offset
    return SelfCheck(seed=3, logits=tuple(tuple(map(float, row)) for row in logits), tolerance=1e-4)


def tiny_model(
    manifest: Manifest | None = None,
    *,
    weights: np.ndarray = WEIGHTS,
    edit: Callable[[onnx.ModelProto], None] | None = None,
) -> bytes:
    """Return the tiny model as the bytes of an ONNX file.

    Args:
        manifest: written into it; by default the matching one with a self-check.
        weights: colour to logits, (3, K).
        edit: changes the finished protobuf, for files that must be refused.
    """
    constants = {
        "scale": np.float32(255),
        "weights": weights,
        "class_rows": np.ascontiguousarray(weights.T),
        "plane": np.array([1, 2], dtype=np.int64),
        "zero": np.int64(0),
        "minus_one": np.int64(-1),
        "all": np.array([len(LABELS)], dtype=np.int64),
        "last_axis": np.array([3], dtype=np.int64),
        "nan": np.float32(np.nan),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["pixels", "scale"], ["unit"]),
        helper.make_node("ReduceMean", ["unit", "plane"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "weights"], ["logits"]),
        helper.make_node("Equal", ["layer", "zero"], ["is_known"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ReduceMean", ["unit", "last_axis"], ["attention"], keepdims=0),
        helper.make_node("TopK", ["logits", "all"], ["sorted", "ranked"], axis=1),
        helper.make_node("Mul", ["target", "minus_one"], ["negated"]),
        helper.make_node("Add", ["negated", "minus_one"], ["rank"]),
        helper.make_node("Max", ["rank", "zero"], ["rank_safe"]),
        helper.make_node("GatherElements", ["ranked", "rank_safe"], ["of_rank"], axis=1),
        helper.make_node("Less", ["target", "zero"], ["is_rank"]),
        helper.make_node("Where", ["is_rank", "of_rank", "target"], ["chosen"]),
        # `versus` must be used: ONNX Runtime drops inputs that nothing reads.
        helper.make_node("Mul", ["versus", "zero"], ["versus_nothing"]),
        helper.make_node("Add", ["chosen", "versus_nothing"], ["valid"]),
        helper.make_node("Where", ["is_known", "valid", "minus_one"], ["explained"]),
        helper.make_node("Gather", ["class_rows", "valid"], ["rows"], axis=0),
        helper.make_node("Einsum", ["rows", "unit"], ["map"], equation="ntc,nhwc->nthw"),
        helper.make_node("Where", ["is_known", "map", "nan"], ["gradcam"]),
    ]
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIDE, SIDE, 3]),
        helper.make_tensor_value_info("target", TensorProto.INT64, ["N", "T"]),
        helper.make_tensor_value_info("versus", TensorProto.INT64, ["N", "T"]),
        helper.make_tensor_value_info("layer", TensorProto.INT64, []),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(LABELS)]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(LABELS)]),
        helper.make_tensor_value_info("attention", TensorProto.FLOAT, ["N", SIDE, SIDE]),
        helper.make_tensor_value_info("gradcam", TensorProto.FLOAT, ["N", "T", SIDE, SIDE]),
        helper.make_tensor_value_info("explained", TensorProto.INT64, ["N", "T"]),
    ]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    manifest = manifest or tiny_manifest(self_check=tiny_self_check(weights))
    for key, value in manifest.to_metadata().items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    if edit is not None:
        edit(model)
    return model.SerializeToString()
