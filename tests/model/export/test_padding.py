"""Zeros beside a map: taken over by the convolution, with the same result."""

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from model.export.graphs import drop_unread_nodes
from model.export.int8.convolutions import observed
from model.export.padding import fold_padding
from tests.model.export.int8.graphs import Graph


def _padded(sides: dict[int, tuple[int, int]], value: float = 0.0, read_twice: bool = False) -> ModelProto:
    """Return a convolution behind a map beside which values are set: axis → before, behind."""
    graph, shape, x = Graph(), [1, 3, 12, 12], "x"
    graph.stored.append(numpy_helper.from_array(np.float32(value), "value"))
    for axis, counts in sides.items():
        parts = []
        for count in counts:
            size = [*shape[:axis], count, *shape[axis + 1 :]]
            names = [f"size{axis}.{len(parts)}.{place}" for place in range(4)]
            graph.stored.extend(
                numpy_helper.from_array(np.array([each]), name) for each, name in zip(size, names, strict=True)
            )
            whole = graph.node("Concat", names, f"sizes{axis}.{len(parts)}", axis=0)
            parts.append(graph.node("Expand", ["value", whole], f"beside{axis}.{len(parts)}"))
        x = graph.node("Concat", [parts[0], x, parts[1]], f"padded{axis}", axis=axis)
        shape[axis] += sum(counts)
    weight = graph.random.normal(size=(4, 3, 3, 3))
    graph.convolve(x, "y", weight, strides=[2, 2], pads=[0, 1, 0, 0])
    if read_twice:
        graph.node("Relu", [x], "other")
    model = graph.model("y")
    if read_twice:
        model.graph.output.extend(graph.model("other").graph.output)
    return model


@pytest.mark.parametrize("sides", [{3: (0, 1)}, {3: (0, 1), 2: (0, 1)}, {2: (2, 1), 3: (1, 2)}])
@pytest.mark.parametrize("read_twice", [False, True])
def test_zeros_are_taken_over(sides: dict[int, tuple[int, int]], read_twice: bool) -> None:
    """The convolution reads the map itself; where something else reads the padded one, that stays."""
    model, feeds = _padded(sides, read_twice=read_twice), Graph().inputs(2)
    names = ["y", "other"] if read_twice else ["y"]
    expected = [*observed(model, names, feeds)]
    fold_padding(model)
    drop_unread_nodes(model)
    found = [*observed(model, names, feeds)]
    for one, other in zip(found, expected, strict=True):
        for name in names:
            np.testing.assert_allclose(one[name], other[name], atol=1e-5)
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    (top, bottom), (left, right) = sides.get(2, (0, 0)), sides.get(3, (0, 0))
    assert convolution.input[0] == "x"
    assert helper.get_node_attr_value(convolution, "pads") == [top, 1 + left, bottom, right]
    assert (len(model.graph.node) > 1) is read_twice


def test_other_values_stay() -> None:
    """What is not zero, or not set along rows and columns, is no padding."""
    for sides, value in (({3: (0, 1)}, 1.0), ({1: (0, 0)}, 0.0)):
        model = _padded(sides, value)
        before = model.SerializeToString()
        fold_padding(model)
        assert model.SerializeToString() == before
