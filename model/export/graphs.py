"""Parts of an ONNX graph: what is stored, who makes and who reads a value, what nothing reads."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto


def initializers(model: ModelProto) -> dict[str, TensorProto]:
    """Return the tensors stored in a model by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def subgraphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a graph and all graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from subgraphs(attribute.g)


def count_operators(graph: GraphProto) -> dict[str, int]:
    """Return operator type → number of nodes, subgraphs included, the most frequent first."""
    counts: Counter[str] = Counter()
    for part in subgraphs(graph):
        counts.update(node.op_type for node in part.node)
    return dict(counts.most_common())


def producers_of(graph: GraphProto) -> dict[str, NodeProto]:
    """Return the node that makes each value."""
    return {name: node for node in graph.node for name in node.output}


def readers_of(model: ModelProto) -> dict[str, list[NodeProto]]:
    """Return the nodes that read each value."""
    found: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def ancestors(producers: dict[str, NodeProto], outputs: Iterable[str], stop: Collection[str]) -> set[int]:
    """Return the ids of the nodes that the outputs depend on, not searching past the values in `stop`.

    They are of the objects in `producers`, and hold as long as that is kept: protobuf makes others afterwards.
    """
    found: set[int] = set()
    pending = list(outputs)
    while pending:
        name = pending.pop()
        node = None if name in stop else producers.get(name)
        if node is not None and id(node) not in found:
            found.add(id(node))
            pending.extend(node.input)
    return found


def drop_unused_initializers(model: ModelProto) -> None:
    """Drop stored tensors that nothing reads, such as intermediate results of folding: runtimes warn of them.

    Args:
        model: changed in place, its subgraphs too.
    """
    parts = list(subgraphs(model.graph))
    used = {name for part in parts for node in part.node for name in node.input}
    used |= {value.name for part in parts for value in part.output}
    for part in parts:
        for index in reversed(range(len(part.initializer))):
            if part.initializer[index].name not in used:
                del part.initializer[index]


def drop_unread_nodes(model: ModelProto) -> None:
    """Drop the nodes and the stored tensors from which no output follows.

    Args:
        model: without branches; changed in place.
    """
    producers = producers_of(model.graph)
    needed = ancestors(producers, [value.name for value in model.graph.output], stop=())
    kept = [node for node in model.graph.node if id(node) in needed]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    drop_unused_initializers(model)
