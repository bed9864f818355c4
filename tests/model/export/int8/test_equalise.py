"""Channels of one range: the network computes the same, and what is rounded has no small channels."""

import numpy as np
import pytest

from model.export.int8.convolutions import observed
from model.export.int8.equalise import equalise
from tests.model.export.int8.graphs import Graph


def _graph(seed: int) -> Graph:
    """Return a graph with a first block as MobileNetV2's, a sum, and a reader of cells in a row."""
    graph = Graph(seed)
    graph.convolve("x", "first", graph.uneven(6, 3, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2])
    graph.node("Relu", ["first"], "bounded")
    graph.convolve("bounded", "deep", graph.uneven(6, 1, 3, 3), group=6, pads=[1, 1, 1, 1])
    graph.node("Relu", ["deep"], "deep_bounded")
    graph.convolve("deep_bounded", "narrow", graph.uneven(4, 6, 1, 1))
    graph.convolve("narrow", "wide", graph.uneven(8, 4, 1, 1))
    graph.node("Relu", ["wide"], "wide_bounded")
    graph.convolve("wide_bounded", "again", graph.uneven(4, 8, 1, 1))
    graph.node("Add", ["narrow", "again"], "sum")
    graph.convolve("sum", "last", graph.uneven(5, 4, 1, 1))
    return graph


@pytest.mark.parametrize("seed", range(3))
def test_the_result_stays_and_the_ranges_are_one(seed: int) -> None:
    """What the first two convolutions make, and both sides of the sum, end with channels of one range."""
    graph = _graph(seed)
    model, feeds = graph.model("last"), graph.inputs(6)
    names = ["last", "bounded", "deep_bounded", "narrow", "again", "sum"]
    before = [*observed(model, names, feeds)]
    equalise(model, feeds)
    after = [*observed(model, names, feeds)]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(other["last"], one["last"], rtol=1e-3, atol=1e-3)

    def ranges(values: list[dict[str, np.ndarray]], names: list[str]) -> np.ndarray:
        found: np.ndarray = np.max([np.abs(one[name]).max((1, 2)) for one in values for name in names], axis=0)
        return found[found > 0]  # an activation may never let a channel through

    for group in (["bounded"], ["deep_bounded"], ["narrow", "again", "sum"]):
        spread = [found.max() / found.min() for found in (ranges(before, group), ranges(after, group))]
        assert spread[0] > 3
        assert spread[1] == pytest.approx(1, rel=1e-3)


def test_what_others_read_stays() -> None:
    """A value that is an output, or that is read by something else than a convolution, keeps its channels."""
    graph = _graph(0)
    graph.node("Sigmoid", ["narrow"], "gate")
    model, feeds = graph.model("last"), graph.inputs(4)
    model.graph.output.extend(graph.model("gate").graph.output)
    (before,) = observed(model, ["sum", "gate"], feeds[:1])
    equalise(model, feeds)
    (after,) = observed(model, ["sum", "gate"], feeds[:1])
    for name in ("sum", "gate"):
        np.testing.assert_allclose(after[name], before[name], rtol=1e-4, atol=1e-4)
    model = _graph(0).model("sum")
    (before,) = observed(model, ["sum"], feeds[:1])
    equalise(model, feeds)
    (after,) = observed(model, ["sum"], feeds[:1])
    np.testing.assert_allclose(after["sum"], before["sum"], rtol=1e-4, atol=1e-4)
