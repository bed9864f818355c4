"""A model of a few hundred bytes that keeps the graph contract: logits are weighted mean colours.

Its one layer is the image itself. With marks, embedding and novelty it is of version 2, without them as of version 1.
A mark is seen by its colour, and its map is that colour's plane of the image. Made with `onnx.helper`, so that the
tests of the engine need neither torch nor the bundled weights.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model.contract.geometry import Resize
from model.contract.manifest import (
    Embedding,
    Layer,
    Manifest,
    Mark,
    Marks,
    Novelty,
    SelfCheck,
    synthetic_images,
)
from model.contract.marks import write_table

SIDE = 8
LABELS = ("Red bird", "Green bird", "Blue bird", "Grey bird")
WEIGHTS = np.array([[4, 0, 0, 1], [0, 4, 0, 1], [0, 0, 4, 1]], dtype=np.float32)
NONE = len(LABELS)
MARKS = (
    Mark(name="red crown", part="crown", source="crown: red"),
    Mark(name="green throat", part="throat"),
    Mark(name="blue wing", part="wing"),
    Mark(name="red wing", part="wing"),
    Mark(name="чёрный глаз", part="глаз", located=False),
)
NO_MARK = len(MARKS)
TABLE = np.array(
    [[0.9, 0.1, 0.0, 0.6, 0.8], [0.1, 0.9, 0.1, 0.1, 0.8], [0.0, 0.1, 0.9, np.nan, 0.8], [0.4, 0.7, 0.4, 0.4, 0.8]],
    dtype=np.float32,
)
COLOURS = np.array([[1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]], dtype=np.float32)
"""Which colour each mark has, (3, A); a mark of none is always seen, and its map is even."""


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


def marked_manifest(**changes: Any) -> Manifest:
    """Return the manifest of the tiny model with marks, embedding and novelty, with changes to the marks."""
    marks: dict[str, Any] = {"marks": MARKS, "table": write_table(TABLE), "grid": (SIDE, SIDE), "missing": True}
    return tiny_manifest(
        self_check=tiny_self_check(),
        marks=Marks(**{**marks, **changes}),
        embedding=Embedding(size=3),
        novelty=Novelty(method="brightness", threshold=0.9, quantiles=(0.0, 1.0), num_photos=10),
    )


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
    manifest = manifest or tiny_manifest(self_check=tiny_self_check(weights))
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
    if manifest.marks is not None:
        _add_version_2(nodes, inputs, outputs, constants)
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    for key, value in manifest.to_metadata().items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    if edit is not None:
        edit(model)
    return model.SerializeToString()


def _add_version_2(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: dict[str, Any]) -> None:
    """Add marks, embedding and novelty to the parts of the graph."""
    constants |= {
        "table": np.vstack([np.nan_to_num(TABLE), np.zeros((1, NO_MARK), np.float32)]),
        "colours": COLOURS,
        "colour_rows": np.ascontiguousarray(COLOURS.T),
        "bias": np.where(COLOURS.any(axis=0), -4, 4).astype(np.float32),
        "steep": np.float32(8),
        "little": np.float32(1e-6),
        "one": np.int64(1),
        "first": np.array([0], np.int64),
        "second": np.array([1], np.int64),
        "planes": np.array([2, 3], np.int64),
        "last_class": np.int64(len(LABELS) - 1),
        "no_mark": np.int64(NO_MARK),
        "last_mark": np.int64(NO_MARK - 1),
        "all_marks": np.array([NO_MARK], np.int64),
        "nan_map": np.full((1, 1, SIDE, SIDE), np.nan, np.float32),
        "last": np.array([-1], np.int64),
    }
    add = [
        ("MatMul", ["pooled", "colours"], "coloured", {}),
        ("Mul", ["coloured", "steep"], "steeper", {}),
        ("Add", ["steeper", "bias"], "mark_logits", {}),
        ("Sigmoid", ["mark_logits"], "marks", {}),
        # The classes that the ranks of marks are by: the first target and the first versus.
        ("Neg", ["versus"], "versus_negated", {}),
        ("Sub", ["versus_negated", "one"], "versus_rank", {}),
        ("Max", ["versus_rank", "zero"], "versus_rank_safe", {}),
        ("Min", ["versus_rank_safe", "last_class"], "versus_rank_in", {}),
        ("GatherElements", ["ranked", "versus_rank_in"], "versus_of_rank", {"axis": 1}),
        ("Less", ["versus", "zero"], "versus_is_rank", {}),
        ("Where", ["versus_is_rank", "versus_of_rank", "versus"], "versus_chosen", {}),
        ("Slice", ["valid", "first", "second", "second"], "target_first", {}),
        ("Slice", ["versus_chosen", "first", "second", "second"], "versus_first", {}),
        ("Squeeze", ["target_first", "second"], "target_class", {}),
        ("Squeeze", ["versus_first", "second"], "versus_class", {}),
        ("Gather", ["table", "target_class"], "typical", {"axis": 0}),
        ("Gather", ["table", "versus_class"], "typical_versus", {"axis": 0}),
        ("Sub", ["typical", "typical_versus"], "telling", {}),
        ("Mul", ["marks", "telling"], "mark_scores", {}),
        # From codes to marks.
        ("Neg", ["mark"], "mark_negated", {}),
        ("Sub", ["mark_negated", "one"], "mark_rank", {}),
        ("Max", ["mark_rank", "zero"], "mark_rank_safe", {}),
        ("Min", ["mark_rank_safe", "last_mark"], "mark_rank_in", {}),
        ("GatherElements", ["ranked_marks", "mark_rank_in"], "mark_of_rank", {"axis": 1}),
        ("Less", ["mark", "zero"], "mark_is_rank", {}),
        ("Less", ["mark_rank", "no_mark"], "mark_has_rank", {}),
        ("Where", ["mark_has_rank", "mark_of_rank", "no_mark"], "mark_by_rank", {}),
        ("Min", ["mark", "no_mark"], "mark_in", {}),
        ("Where", ["mark_is_rank", "mark_by_rank", "mark_in"], "marked", {}),
        # Each mark's map, and a last one for none.
        ("Einsum", ["colour_rows", "unit"], "planes_of_marks", {"equation": "ac,nhwc->nahw"}),
        ("Add", ["planes_of_marks", "little"], "not_zero", {}),
        ("ReduceSum", ["not_zero", "planes"], "whole", {"keepdims": 1}),
        ("Div", ["not_zero", "whole"], "all_maps", {}),
        ("ReduceSum", ["all_maps", "second"], "any_map", {"keepdims": 1}),
        ("Mul", ["any_map", "nan_map"], "no_map", {}),
        ("Concat", ["all_maps", "no_map"], "maps_and_none", {"axis": 1}),
        ("Unsqueeze", ["marked", "last"], "at", {}),
        ("GatherND", ["maps_and_none", "at"], "mark_maps", {"batch_dims": 1}),
        ("ReduceL2", ["pooled", "second"], "length", {"keepdims": 1}),
        ("Add", ["length", "little"], "length_not_zero", {}),
        ("Div", ["pooled", "length_not_zero"], "embedding", {}),
        ("ReduceMean", ["pooled", "second"], "novelty", {"keepdims": 0}),
    ]  # fmt: skip
    nodes += [helper.make_node(kind, given, [made], **options) for kind, given, made, options in add]
    nodes.append(helper.make_node("TopK", ["mark_scores", "all_marks"], ["sorted_marks", "ranked_marks"], axis=1))
    order = [node.output[0] for node in nodes]
    nodes.insert(order.index("mark_of_rank"), nodes.pop())
    inputs.append(helper.make_tensor_value_info("mark", TensorProto.INT64, ["N", "M"]))
    outputs += [
        helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3]),
        helper.make_tensor_value_info("novelty", TensorProto.FLOAT, ["N"]),
        helper.make_tensor_value_info("marks", TensorProto.FLOAT, ["N", NO_MARK]),
        helper.make_tensor_value_info("mark_maps", TensorProto.FLOAT, ["N", "M", SIDE, SIDE]),
        helper.make_tensor_value_info("marked", TensorProto.INT64, ["N", "M"]),
    ]
