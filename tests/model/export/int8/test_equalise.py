"""Channels of one range: the network computes the same, and what is rounded has no small channels."""

import numpy as np
import pytest
from onnx import numpy_helper

from model.export.int8.convolutions import observed
from model.export.int8.equalise import MOST, equalise
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
    """What the first two convolutions make, and both sides of the sum, end with one range, as far as factors go."""
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
        assert spread[0] > 2
        assert spread[1] == pytest.approx(max(1, spread[0] / MOST), rel=1e-3)


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


def test_one_channel_that_is_added_to_all_stays() -> None:
    """A sum of four channels and one, as in spatial gates, has no range a channel in common."""
    graph = Graph()
    graph.convolve("x", "four", graph.uneven(4, 3, 1, 1))
    graph.convolve("x", "one", graph.uneven(1, 3, 1, 1))
    graph.node("Add", ["four", "one"], "sum")
    graph.convolve("sum", "last", graph.uneven(5, 4, 1, 1))
    model = graph.model("last")
    before = model.SerializeToString()
    equalise(model, graph.inputs(3))
    assert model.SerializeToString() == before


def test_a_channel_that_is_hardly_seen_keeps_room() -> None:
    """Its factor is limited: other photos may have more of it."""
    graph = _graph(0)
    weight = next(tensor for tensor in graph.stored if tensor.name == "first.weight")
    values = numpy_helper.to_array(weight).copy()
    values[0] *= 0.01
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    bias = next(tensor for tensor in graph.stored if tensor.name == "first.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(6, 0.001, np.float32), bias.name))
    model, feeds = graph.model("last"), graph.inputs(4)
    equalise(model, feeds)
    found = numpy_helper.to_array(next(each for each in model.graph.initializer if each.name == weight.name))
    assert (found[0] / values[0]).mean() == pytest.approx(MOST, rel=1e-5)


def test_an_activation_of_negative_values_is_no_bound() -> None:
    """Clip from -1: a factor would move what it cuts off below; the channels stay."""
    graph = Graph()
    for name, bound in (("low", -1.0), ("high", 6.0)):
        graph.stored.append(numpy_helper.from_array(np.float32(bound), name))
    graph.convolve("x", "first", graph.uneven(6, 3, 3, 3), strides=[2, 2])
    graph.node("Clip", ["first", "low", "high"], "bounded")
    graph.convolve("bounded", "deep", graph.uneven(6, 1, 3, 3), group=6)
    model = graph.model("deep")
    before = model.SerializeToString()
    equalise(model, graph.inputs(3))
    assert model.SerializeToString() == before
