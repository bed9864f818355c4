"""Convolutions of a graph: what a cell of the result is made of."""

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from model.export.int8.convolutions import convolutions, observed
from tests.model.export.int8.graphs import Graph


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((5, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
        ((5, 4, 1, 1), {}),
        ((4, 1, 3, 5), {"group": 4, "pads": [1, 2, 1, 2], "strides": [2, 1]}),
        ((6, 2, 3, 3), {"group": 2, "pads": [0, 0, 1, 1], "strides": [2, 2]}),
    ],
)
def test_patches_times_weights_are_the_result(shape: tuple[int, ...], attributes: dict[str, object]) -> None:
    """Of every cell, where no limit leaves some out; with a limit some are left out."""
    graph = Graph()
    graph.convolve("x", "y", graph.random.normal(size=shape), **attributes)
    model, feeds = graph.model("y", 4), graph.inputs(1, 4)
    found = convolutions(model)["y"]
    (result,) = observed(model, ["y"], feeds)
    weight, bias = (numpy_helper.to_array(tensor) for tensor in (found.weight, found.bias))
    patches = found.patches(feeds[0]["x"][0], 1000)
    sums = np.einsum("goi,gic->goc", weight.reshape(found.groups, -1, weight[0].size), patches)
    np.testing.assert_allclose(sums.reshape(result["y"].shape) + bias[:, None, None], result["y"], atol=1e-4)
    assert found.patches(feeds[0]["x"][0], 7).shape[2] == 7
    assert found.is_depthwise == (shape[1] == 1)


def test_other_convolutions_are_none_of_them() -> None:
    """Those without a bias, and those over cells in a row, are left as they are."""
    graph = Graph()
    graph.convolve("x", "y", graph.random.normal(size=(4, 3, 3, 3)))
    graph.node("Conv", ["y", "z.weight"], "z")
    graph.stored.append(numpy_helper.from_array(torch.ones(2, 4, 1, 1).numpy(), "z.weight"))
    assert list(convolutions(graph.model("z"))) == ["y"]
