"""Convolutions of a graph: what stands in the node, and what each cell of the result is made of."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from model.export.graphs import initializers
from model.export.running import session

Matrix = npt.NDArray[np.floating]
ACTIVATIONS = ("Clip", "Relu")


@dataclass(frozen=True)
class Convolution:
    """A convolution over rows and columns with a stored weight and a stored bias.

    Attributes:
        node: in the graph.
        weight: as stored, (out, in / groups, k, l).
        bias: likewise, (out,).
        groups: of channels.
        strides: down and right.
        pads: top, left, bottom, right.
        dilated: whether its cells lie apart.
    """

    node: NodeProto
    weight: TensorProto
    bias: TensorProto
    groups: int
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilated: bool

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel is filtered alone."""
        return [self.groups, 1] == [*self.weight.dims[:2]]

    def patches(self, x: Matrix, most: int) -> Matrix:
        """Return what cells of the result are made of, (groups, in / groups · k · l, cells).

        Args:
            x: an input, (in, h, w).
            most: limit of cells; evenly chosen.
        """
        (rows, columns), (down, right), (top, left, bottom, after) = self.weight.dims[2:], self.strides, self.pads
        padded = np.pad(x, ((0, 0), (top, bottom), (left, after)))
        height, width = (
            (side - k) // s + 1 for side, k, s in zip(padded.shape[1:], (rows, columns), self.strides, strict=True)
        )
        cells = np.linspace(0, height * width - 1, min(most, height * width)).astype(int)
        y, x0 = cells // width * down, cells % width * right
        taken = np.stack([padded[:, y + i, x0 + j] for i in range(rows) for j in range(columns)], axis=1)
        return taken.reshape(self.groups, -1, len(cells))


def convolutions(model: ModelProto) -> dict[str, Convolution]:
    """Return a graph's convolutions over rows and columns by the names of their nodes, in order."""
    stored, found = initializers(model), {}
    for node in model.graph.node:
        weight = stored.get(node.input[1]) if node.op_type == "Conv" else None
        if weight is not None and len(weight.dims) == 4 and len(node.input) == 3 and node.input[2] in stored:
            given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            found[node.name] = Convolution(
                node,
                weight,
                stored[node.input[2]],
                given.get("group", 1),
                tuple(given.get("strides", (1, 1))),
                tuple(given.get("pads", (0, 0, 0, 0))),
                set(given.get("dilations", (1,))) != {1},
            )
    return found


def rescale(tensor: TensorProto, factors: Matrix) -> None:
    """Multiply a stored tensor by factors that broadcast to it."""
    scaled = numpy_helper.to_array(tensor).astype(np.float64) * factors
    tensor.CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), tensor.name))


def observed(
    model: ModelProto, names: Sequence[str], feeds: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Matrix]]:
    """Yield values inside a graph by name, (C, h, w) each, for the inputs of each image; none for no names."""
    if not names:
        return
    probed = ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    probed.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    runtime = session(probed.SerializeToString())
    taken = {value.name for value in runtime.get_inputs()}
    for each in feeds:
        values = runtime.run([*names], {name: value for name, value in each.items() if name in taken})
        yield {name: value[0] for name, value in zip(names, values, strict=True)}
