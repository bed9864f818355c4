"""Put what few requests need behind an ONNX `If`: a runtime computes the whole graph for every request.

ONNX Runtime runs every node, also those that only feed an output that is not fetched. The nodes that only the map of
an earlier layer needs move into a branch, which sees the values and the weights of the graph around it: nothing
is stored twice, and a branch that is not taken costs nothing.

Nearly nothing: a feature map that a branch takes from the main graph must be kept there, in the layout of ONNX
rather than that of the runtime's convolutions. All requests pay for it, so only the latest of these maps is taken, the
smallest and the most expensive to compute; a branch for an earlier one computes it again from the image.
Entering an `If` costs too, by the number of values that its branch sees: hundreds of weights. So the first choice is
between the last stage and all others, and the last stage's branch sees one value.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from model.export.graphs import ancestors, producers_of

CAPTURED = 1
"""The branches up to this one take their feature map from the main graph; the others compute it again."""


class Branch(NamedTuple):
    """The map of one layer inside the traced graph, by names of values.

    Attributes:
        gradcam: the map, (N, T, h, w).
        feature_map: what it is a map of, (N, C, h, w).
        copies: the feature map for every target, (N·T, C, h, w). The trace computes them on its way from an
            earlier layer; the branch repeats the feature map instead.
        shape: (C, h, w).
    """

    gradcam: str
    feature_map: str
    copies: str
    shape: tuple[int, int, int]


def branch_by_layer(model: ModelProto, always: Collection[str], branches: Iterable[Branch]) -> None:
    """Make `gradcam` the map of the layer that the input `layer` names.

    Args:
        model: with the outputs `always` and those of the branches; changed in place.
        always: outputs that every request computes; `gradcam` among them is that of layer 0.
        branches: of the layers 1, 2, …; at least one.
    """
    graph = model.graph
    producers = producers_of(graph)
    kept = ancestors(producers, always, stop=())
    branches = list(branches)
    chosen: GraphProto | None = None
    for index, traced in reversed([*enumerate(branches, 1)]):
        branch = _resolve(traced, producers)
        needed = ancestors(producers, [branch.gradcam], stop={branch.copies}) - kept
        if index > CAPTURED:
            needed |= ancestors(producers, [branch.feature_map], stop=())
        nodes = [node for node in graph.node if id(node) in needed]
        taken = _taken(index, branch, nodes)
        chosen = taken if chosen is None else _choice(f"choose{index}", _is_layer(index), taken, chosen)
    if chosen is None:
        raise ValueError("there are no branches to choose from")
    last = _part("layer0", [helper.make_node("Identity", ["layer0/gradcam"], ["layer0/chosen"])], "layer0/chosen")
    choice = list(_choice("choose", _is_earlier(len(branches)), chosen, last).node)
    nodes = [node for node in graph.node if id(node) in kept]
    for node in nodes:
        node.output[:] = ["layer0/gradcam" if name == "gradcam" else name for name in node.output]
    choice[-1].output[0] = "gradcam"
    del graph.node[:]
    graph.node.extend([*nodes, *choice])
    gradcam = helper.make_tensor_value_info("gradcam", TensorProto.FLOAT, ["N", "T", None, None])
    outputs = [gradcam if value.name == "gradcam" else value for value in graph.output if value.name in always]
    del graph.output[:]
    graph.output.extend(outputs)


def _taken(index: int, branch: Branch, nodes: list[NodeProto]) -> GraphProto:
    """Return the branch that computes one layer's map, its values renamed with a prefix."""
    prefix = f"layer{index}/"
    names = {name: prefix + name for node in nodes for name in node.output} | {branch.copies: prefix + branch.copies}
    repeat = _repeat(prefix, branch, names.get(branch.feature_map, branch.feature_map))
    # The trace has its nodes in order: what repeats the feature map follows what computes it, here or outside.
    own = [] if branch.feature_map in names else [*repeat]
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.name = prefix + node.name
        copy.input[:] = [names.get(name, name) for name in node.input]
        copy.output[:] = [names[name] for name in node.output]
        own.append(copy)
        if branch.feature_map in node.output:
            own.extend(repeat)
    return _part(f"layer{index}", own, names[branch.gradcam])


def _repeat(prefix: str, branch: Branch, feature_map: str) -> list[NodeProto]:
    """Return the nodes that repeat a feature map for every target: (N, C, h, w) → (N·T, C, h, w)."""

    def constant(name: str, values: list[int]) -> NodeProto:
        return helper.make_node("Constant", [], [prefix + name], value_ints=values)

    return [
        constant("ones", [1, 1, 1]),
        constant("one", [1]),
        constant("rows", [-1, *branch.shape]),
        helper.make_node("Shape", ["target"], [prefix + "T"], start=1, end=2),
        helper.make_node("Unsqueeze", [feature_map, prefix + "one"], [prefix + "single"]),
        helper.make_node("Concat", [prefix + "one", prefix + "T", prefix + "ones"], [prefix + "shape"], axis=0),
        helper.make_node("Expand", [prefix + "single", prefix + "shape"], [prefix + "repeated"]),
        helper.make_node("Reshape", [prefix + "repeated", prefix + "rows"], [prefix + branch.copies]),
    ]


def _choice(name: str, condition: list[NodeProto], then: GraphProto, otherwise: GraphProto) -> GraphProto:
    """Return a graph that takes one branch if the last of the condition's nodes is true, else the other."""
    (asked,) = condition[-1].output
    choice = helper.make_node("If", [asked], [f"{name}/map"], then_branch=then, else_branch=otherwise)
    return _part(name, [*condition, choice], f"{name}/map")


def _is_layer(index: int) -> list[NodeProto]:
    prefix = f"choose{index}/"
    return [
        helper.make_node("Constant", [], [prefix + "index"], value_int=index),
        helper.make_node("Equal", ["layer", prefix + "index"], [prefix + "asked"]),
    ]


def _is_earlier(count: int) -> list[NodeProto]:
    """Return the condition that the requested layer is one of 1…count."""
    return [
        helper.make_node("Constant", [], ["choose/first"], value_int=1),
        helper.make_node("Constant", [], ["choose/last"], value_int=count),
        helper.make_node("GreaterOrEqual", ["layer", "choose/first"], ["choose/from"]),
        helper.make_node("LessOrEqual", ["layer", "choose/last"], ["choose/to"]),
        helper.make_node("And", ["choose/from", "choose/to"], ["choose/asked"]),
    ]


def _part(name: str, nodes: list[NodeProto], output: str) -> GraphProto:
    value = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", "T", None, None])
    return helper.make_graph(nodes, name, [], [value])


def _resolve(branch: Branch, producers: dict[str, NodeProto]) -> Branch:
    return branch._replace(feature_map=_origin(producers, branch.feature_map), copies=_origin(producers, branch.copies))


def _origin(producers: dict[str, NodeProto], name: str) -> str:
    """Return the value that an output is an identity of."""
    while producers[name].op_type == "Identity":
        name = producers[name].input[0]
    return name
