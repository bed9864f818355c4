"""Small graphs of convolutions, as they are before they are quantised."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Floats = npt.NDArray[np.float32]


class Graph:
    """Collects nodes and weights; all random numbers come from one seed."""

    def __init__(self, seed: int = 0) -> None:
        self.random, self.nodes, self.stored = np.random.default_rng(seed), list[NodeProto](), list[TensorProto]()

    def convolve(self, x: str, y: str, weight: Floats, **attributes: Any) -> str:
        """Add a convolution named as its output."""
        for name, value in (("weight", weight), ("bias", self.random.normal(size=len(weight)))):
            self.stored.append(numpy_helper.from_array(value.astype(np.float32), f"{y}.{name}"))
        self.nodes.append(helper.make_node("Conv", [x, f"{y}.weight", f"{y}.bias"], [y], y, **attributes))
        return y

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node named as its output."""
        self.nodes.append(helper.make_node(operator, [*inputs], [output], output, **attributes))
        return output

    def uneven(self, *shape: int) -> Floats:
        """Return weights of which some outputs are five times as large as others."""
        sizes = np.geomspace(1, 5, shape[0])[self.random.permutation(shape[0])]
        weight: Floats = (self.random.normal(size=shape) * sizes.reshape(-1, *(1,) * (len(shape) - 1))).astype(
            np.float32
        )
        return weight

    def model(self, output: str, channels: int = 3) -> ModelProto:
        """Return the graph from `x`, (1, channels, h, w), to an output."""
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, None, None])
        y = helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * 4)
        graph = helper.make_graph(self.nodes, "graph", [x], [y], self.stored)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)

    def inputs(self, count: int, channels: int = 3, side: int = 12) -> list[dict[str, Floats]]:
        """Return what the graph is run on."""
        return [{"x": self.random.normal(size=(1, channels, side, side)).astype(np.float32)} for _ in range(count)]
