"""Reading an ONNX file's framing: are all weights inside?"""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.inference.files.external_data import MalformedFile, has_external_data
from tests.service.tiny_model import tiny_model


def outside(name: str = "w") -> TensorProto:
    """Return a tensor whose data are in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    return tensor


def model(*nodes: onnx.NodeProto, initializers: tuple[TensorProto, ...] = ()) -> bytes:
    """Return a model around some nodes and initialisers."""
    graph = helper.make_graph(list(nodes), "g", [], [], list(initializers))
    return helper.make_model(graph).SerializeToString()


INSIDE = numpy_helper.from_array(np.zeros(3, dtype=np.float32), "inside")


def test_weights_inside() -> None:
    """A file that holds all its weights has no external data."""
    assert not has_external_data(tiny_model())


def test_initializer_outside() -> None:
    """One external initialiser is enough."""
    assert has_external_data(model(initializers=(INSIDE, outside())))


def test_constant_outside() -> None:
    """External constants of nodes are found."""
    assert has_external_data(model(helper.make_node("Constant", [], ["c"], value=outside())))


def test_tensor_of_a_subgraph_outside() -> None:
    """External tensors in branches of an `If` are found."""
    branch = helper.make_graph([helper.make_node("Identity", ["w"], ["out"])], "b", [], [], [outside()])
    assert has_external_data(model(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)))


@pytest.mark.parametrize("data", [tiny_model()[:300], b"\xff" * 20, b"\x3a\x05ab"])
def test_broken_framing(data: bytes) -> None:
    """A truncated file, or another kind of file, is refused as malformed."""
    with pytest.raises(MalformedFile):
        has_external_data(data)


def test_endless_nesting() -> None:
    """The depth of nested graphs is limited."""

    def wrap(field: int, message: bytes) -> bytes:
        length, digits = len(message), bytearray()
        while length >= 0x80:
            digits.append(length & 0x7F | 0x80)
            length >>= 7
        return bytes([field << 3 | 2, *digits, length]) + message

    graph = b""
    for _ in range(80):
        graph = wrap(1, wrap(5, wrap(6, graph)))  # a node with an attribute with a graph
    with pytest.raises(MalformedFile, match="deeply"):
        has_external_data(wrap(7, graph))
