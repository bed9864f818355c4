"""The first convolution of an int8 graph reads the bytes of the image as they are, four pixels of a row at a time.

ONNX Runtime has no fast int8 kernel for three channels. Four neighbouring pixels are twelve channels without moving a
byte, and a convolution of stride 2 makes two of its cells from them: more products, most of them with zeros, in less
time. Bytes need no rounding, and beside the image lies the mean, as in training.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from model.explain.explainer import Explainer
from model.export.graphs import drop_unused_initializers, initializers, readers_of
from model.export.int8.convolutions import Convolution, Matrix, convolutions

PIXELS = 4
"""Neighbours in a row that are read as the channels of one cell."""
MADE = PIXELS // 2
"""Cells of the result that are made of them."""
COLOURS = 3
_NORMALISE = ("Reshape", "Cast", "Mul", "Add", "Reshape", "Transpose")
"""What `Explainer.normalise` does, by operators."""


def _first_of_image(model: ModelProto) -> tuple[Convolution | None, dict[str, NodeProto]]:
    """Return the convolution that alone reads the normalised image, and the nodes before it by their operators.

    None where anything else reads it, where the network moves pixels before it, or where not all colours meet in it.
    """
    readers, value, passed = readers_of(model), "image", list[NodeProto]()
    while len(behind := [node for node in readers.get(value, []) if node.op_type != "Shape"]) == 1:
        (node,) = behind
        if node.op_type == "Conv":
            first = convolutions(model).get(node.name)
            as_normalised = tuple(one.op_type for one in passed) == _NORMALISE
            meet = first is not None and first.groups == 1 and first.weight.dims[1] == COLOURS
            return (first if as_normalised and meet else None), {one.op_type: one for one in passed}
        passed.append(node)
        value = node.output[0]
    return None, {}


def read_pixels(model: ModelProto, explainer: Explainer) -> Convolution | None:
    """Let the first convolution multiply by the normalisation's scale, which then costs nothing, and return it.

    It reads pixels minus their mean, so that the zeros beside the image are still the mean.

    Args:
        model: with batch norms folded; changed in place, or left as it is where the result is None.
        explainer: that it was traced from.
    """
    first, passed = _first_of_image(model)
    if first is None:
        return None
    stored, scaled, shifted = initializers(model), passed["Mul"], passed["Add"]
    multiplied, added = (next(stored[name] for name in node.input if name in stored) for node in (scaled, shifted))
    scale, shift = (numpy_helper.to_array(tensor).astype(np.float64) for tensor in (multiplied, added))
    added.CopyFrom(numpy_helper.from_array((shift / scale).astype(np.float32), added.name))
    shifted.input[:] = [scaled.input[0] if scaled.input[0] not in stored else scaled.input[1], added.name]
    model.graph.node.remove(scaled)
    weight = numpy_helper.to_array(first.weight) * explainer.scale.numpy()[None]
    first.weight.CopyFrom(numpy_helper.from_array(weight.astype(np.float32), first.weight.name))
    drop_unused_initializers(model)
    return first


def mean_pixel(explainer: Explainer) -> Matrix:
    """Return what the normalisation subtracts, RGB in [0, 255], (3,)."""
    mean: Matrix = -(explainer.shift / explainer.scale).flatten().double().numpy()
    return mean


def can_read_bytes(first: Convolution, size: int) -> bool:
    """Return whether a convolution over pixels makes two cells a row from every four, of images of such a side."""
    top, left, bottom, right = first.pads
    of_rows, of_columns = first.weight.dims[2:]
    halves = {(size + top + bottom - of_rows) // 2 + 1, (size + left + right - of_columns) // 2 + 1} == {size // 2}
    return halves and size % PIXELS == 0 and first.groups == 1 and first.strides == (2, 2) and not first.dilated


def read_bytes(quantised: ModelProto, first: Convolution, mean: Matrix, size: int) -> None:
    """Let the first convolution, which reads pixels minus their mean, read bytes instead.

    Args:
        quantised: by ONNX Runtime, this convolution included; changed in place, with what nothing reads any more, or
            left as it is where the result is not rounded at once.
        first: of the graph in float32 that it was quantised from.
        mean: of the pixels, RGB, (3,).
        size: side of the image, pixels.
    """
    stored, graph = initializers(quantised), quantised.graph
    weight, scale = (numpy_helper.to_array(stored[f"{first.weight.name}_{kind}"]) for kind in ("quantized", "scale"))
    bias, bias_scale = (
        numpy_helper.to_array(stored[f"{first.bias.name}_{kind}"]) for kind in ("quantized", "quantized_scale")
    )
    # Of pixels, not of pixels minus their mean: what the mean gives everywhere moves to the bias.
    shifted = bias * bias_scale.astype(np.float64) - scale * (weight.sum((2, 3)) @ mean)
    wide, before, behind = in_fours(weight, first.pads[1])
    steps = np.tile(scale, MADE).astype(np.float32)

    old = next(node for node in graph.node if node.name == first.node.name)
    rounding, *others = readers_of(quantised)[old.output[0]]
    if others or rounding.op_type != "QuantizeLinear":
        return
    new = _Additions()
    cells = new.node("Reshape", ["image", new.constant("shape", np.array([0, size, size // PIXELS, 3 * PIXELS]))])
    below = max(0, first.weight.dims[2] - 2 - first.pads[0])
    border = np.tile(np.round(mean), PIXELS).astype(np.uint8)
    cells = new.bordered(cells, border, 2, size, before, behind)
    cells = new.bordered(cells, border, 1, size // PIXELS + before + behind, first.pads[0], below)
    channels_first = new.node("Transpose", [cells], perm=[0, 3, 1, 2])
    one = new.constant("one", np.float32(1))
    pixels = new.node("DequantizeLinear", [channels_first, one, new.constant("zero", np.uint8(0))])
    scales = new.constant("scale", steps)
    parameters = (
        new.constant("weight", wide),
        new.constant("bias", np.round(np.tile(shifted, MADE) / steps).astype(np.int32)),
    )
    weights = [new.node("DequantizeLinear", [name, scales], axis=0) for name in parameters]
    sums = new.node("Conv", [pixels, *weights], strides=[2, 1])
    rounded = new.node("QuantizeLinear", [sums, *rounding.input[1:]])
    last = new.node("Transpose", [rounded], perm=[0, 2, 3, 1])
    shape = new.constant("cells", np.array([0, size // 2, size // 2, len(scale)]))
    new.node("Transpose", [new.node("Reshape", [last, shape])], rounding.output[0], perm=[0, 3, 1, 2])
    for node in (old, rounding):
        graph.node.remove(node)
    for node in reversed(new.nodes):
        graph.node.insert(0, node)
    graph.initializer.extend(new.stored)


def in_fours(weight: npt.NDArray[np.int8], left: int) -> tuple[npt.NDArray[np.int8], int, int]:
    """Return the weights over four pixels at a time, and how many fours they read before and behind their own.

    Args:
        weight: of stride 2, (C, 3, k, l).
        left: columns beside the image.

    Returns:
        Weights of stride 1 along a row, (2·C, 12, k, n), the first of two cells first.
    """
    channels, colours, rows, columns = weight.shape
    before, behind = -(-left // PIXELS), (2 * (MADE - 1) - left + columns - 1) // PIXELS
    wide = np.zeros((MADE, channels, PIXELS, colours, rows, before + behind + 1), np.int8)
    for cell in range(MADE):
        for column in range(columns):
            four, pixel = divmod(2 * cell - left + column, PIXELS)
            wide[cell, :, pixel, :, :, four + before] = weight[:, :, :, column]
    return wide.reshape(MADE * channels, PIXELS * colours, rows, -1), before, behind


class _Additions:
    """Nodes and stored tensors that will be put before a graph's own.

    Attributes:
        nodes: in order.
        stored: tensors.
        batch: name of the shape (N, 1, 1, 1).
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.stored: list[TensorProto] = []
        count = self.node("Shape", ["image"], start=0, end=1)
        self.batch = self.node("Concat", [count, self.constant("ones", np.ones(3, np.int64))], axis=0)

    def constant(self, name: str, value: npt.NDArray[np.generic] | np.generic) -> str:
        """Store a tensor and return its name."""
        self.stored.append(numpy_helper.from_array(np.asarray(value), f"bytes.{name}"))
        return self.stored[-1].name

    def node(self, operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        name = f"bytes.{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, [*inputs], [output or name], name, **attributes))
        return output or name

    def bordered(
        self, cells: str, border: npt.NDArray[np.uint8], axis: int, length: int, before: int, behind: int
    ) -> str:
        """Add cells of one colour before and behind along an axis, (N, h, w, C), where any are asked for.

        Args:
            cells: to which they are added.
            border: (C,).
            axis: 1 for rows above and below, 2 for columns.
            length: of the other axis.
            before: how many.
            behind: likewise.
        """
        sides = []
        for name, count in (("before", before), ("behind", behind)):
            shape = (1, count, length, len(border)) if axis == 1 else (1, length, count, len(border))
            side = self.constant(f"{name}_{axis}", np.broadcast_to(border, shape).copy())
            sides.append([self.node("Expand", [side, self.batch])] if count else [])
        return self.node("Concat", [*sides[0], cells, *sides[1]], axis=axis)
