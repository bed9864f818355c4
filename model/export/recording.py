"""Every operation of an explainer, those of its gradients included, as a program that can be exported."""

import copy
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from model.contract.graph import INPUTS
from model.explain.explainer import Explainer
from model.export.decompositions import DECOMPOSITIONS

Example = tuple[Tensor, Tensor, Tensor, Tensor]
"""What is recorded: images, targets, contrasts and the layer."""
FREE_AXES = tuple(len(value.free) for value in INPUTS.values())
"""How many of the first axes of each of them are free: images, or images and targets."""


def record(explainer: Explainer, example: Example) -> fx.GraphModule:
    """Write down every operation of an explainer.

    The numbers of images and of targets are recorded as symbols of their own. With `tracing_mode="symbolic"`
    they would merge with every size that happens to be equal: a batch of 3 with the 3 channels.
    """
    table = {**core_aten_decompositions(), **DECOMPOSITIONS}
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    stand_ins = [
        mode.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(dynamic_sizes=_free_axes(tensor, free)))
        for tensor, free in zip(example, FREE_AXES, strict=True)
    ]

    def explain(image: Tensor, target: Tensor, versus: Tensor, layer: Tensor) -> tuple[Tensor, ...]:
        return explainer.forward(image, target, versus, layer)  # make_fx counts arguments: no bound method

    with mode:
        recording: fx.GraphModule = make_fx(explain, decomposition_table=table, _allow_non_fake_inputs=True)(*stand_ins)
    _write_without_mutations(recording.graph)
    recording.graph.eliminate_dead_code()
    recording.recompile()
    return recording.eval()


def as_program(recording: fx.GraphModule, example: Example, shapes: tuple[dict[int, Any], ...]) -> ExportedProgram:
    """Return a recording as the exporter takes it, its parameters under their names in the recording.

    `torch.export.export` would trace every operation once more, which takes as long as the rest of an export. It is
    left to it only if there is something to change: an operation in place, or one that ONNX has no form for.

    Args:
        recording: of `record`.
        example: of which it was recorded.
        shapes: by which the exporter names the free axes.
    """
    nodes = recording.graph.nodes
    names = [str(node.target) for node in nodes if node.op == "get_attr"]
    constants = {name: getattr(recording, name) for name in names}
    plain = all(isinstance(constant, Tensor) for constant in constants.values())
    if not plain or any(_mutation(node)[0] for node in nodes):
        return torch.export.export(recording, example, dynamic_shapes=shapes)
    program = _with_lifted_constants(recording, constants)

    def run_decompositions(table: Mapping[object, object], **options: object) -> ExportedProgram:
        if any(node.target in table for node in program.graph.nodes):
            traced = torch.export.export(recording, example, dynamic_shapes=shapes)
            decomposed: ExportedProgram = traced.run_decompositions(table, **options)
            return decomposed
        return program

    program.run_decompositions = run_decompositions
    return program


def _with_lifted_constants(recording: fx.GraphModule, constants: Mapping[str, Tensor]) -> ExportedProgram:
    """Return a program whose parameters are inputs, as an exported program has them."""
    graph = copy.deepcopy(recording.graph)
    given = graph.find_nodes(op="placeholder")
    mode: FakeTensorMode = given[0].meta["val"].fake_mode
    specs = [InputSpec(InputKind.USER_INPUT, TensorArgument(node.name), None) for node in given]
    lifted: dict[str, fx.Node] = {}
    for name, constant in constants.items():
        with graph.inserting_before(given[0]):
            lifted[name] = graph.placeholder(name)
        lifted[name].meta["val"] = mode.from_tensor(constant.detach(), static_shapes=True)
    kept = [InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(node.name), name) for name, node in lifted.items()]
    for node in graph.find_nodes(op="get_attr"):
        node.replace_all_uses_with(lifted[str(node.target)])
        graph.erase_node(node)
    for node in graph.nodes:
        node.meta["nn_module_stack"] = {}  # the exporter warns of every node that has none
    returned: Any = graph.output_node().args[0]
    outputs = [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(node.name), None) for node in returned]
    return ExportedProgram(
        root=recording,
        graph=graph,
        graph_signature=ExportGraphSignature([*kept, *specs], outputs),
        state_dict={},
        range_constraints={},
        module_call_graph=[ModuleCallEntry("")],
        constants={name: constant.detach() for name, constant in constants.items()},
    )


def _write_without_mutations(graph: fx.Graph) -> None:
    """Replace in-place operations by those that return a new tensor, where nothing else sees the changed one.

    What is recorded for its gradient alone runs the network again up to the layer; dead code that changes a tensor
    would not be recognised as dead, and be carried through the whole export.
    """
    place = {node: index for index, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        name, overload = _mutation(node)
        pure = getattr(getattr(torch.ops.aten, name[:-1], None), overload, None) if name.endswith("_") else None
        if pure is None:
            continue
        changed = node.args[0]
        others = [user for user in changed.users if user is not node]
        if not _is_view(changed) and all(place[user] < place[node] and not _is_view(user) for user in others):
            node.target = pure  # later uses were recorded as uses of this node's result


def _mutation(node: fx.Node) -> tuple[str, str]:
    """Return name and overload of the operator if it changes its first argument, else two empty strings."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
        return "", ""
    return node.target._schema.name.split("::")[-1], node.target._overloadname


def _is_view(node: fx.Node) -> bool:
    """Return whether a value may share its memory with another: an input, a parameter, or a view."""
    if node.target is operator.getitem:
        return _is_view(node.all_input_nodes[0])
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.op != "output"
    return any(value.alias_info is not None for value in node.target._schema.returns)


def _free_axes(tensor: Tensor, free: int) -> list[DimDynamic]:
    return [DimDynamic.DYNAMIC if axis < free else DimDynamic.STATIC for axis in range(tensor.dim())]
