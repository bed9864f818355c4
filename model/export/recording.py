"""Every operation of an explainer, those of its gradients included, as a program that can be exported."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx
from torch._decomp import core_aten_decompositions
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._subclasses.functional_tensor import dispatch_functionalize
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

Example = tuple[Tensor, ...]
"""What is recorded: the explainer's inputs, that is images, targets, contrasts, the layer, and marks if it has any."""


def record(explainer: Explainer, example: Example) -> fx.GraphModule:
    """Record every operation of an explainer.

    The numbers of images and of targets are recorded as symbols of their own. With `tracing_mode="symbolic"`
    they would merge with every size that happens to be equal: a batch of 3 with the 3 channels.
    """
    table = {**core_aten_decompositions(), **DECOMPOSITIONS}
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    stand_ins = []
    for tensor, name in zip(example, explainer.inputs, strict=True):
        free = len(INPUTS[name].free)
        sizes = [DimDynamic.DYNAMIC if axis < free else DimDynamic.STATIC for axis in range(tensor.dim())]
        stand_ins.append(mode.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes)))

    def explain(*inputs: Tensor) -> tuple[Tensor, ...]:
        return explainer.forward(*inputs)  # make_fx counts arguments: no bound method

    # Operations in place are written as those that return a new tensor: dead ones can be dropped.
    recorder = make_fx(dispatch_functionalize(explain), decomposition_table=table, _allow_non_fake_inputs=True)
    with mode:
        recording: fx.GraphModule = recorder(*stand_ins)
    recording.graph.eliminate_dead_code()
    recording.recompile()
    return recording.eval()


def as_program(recording: fx.GraphModule, names: Mapping[int, str]) -> ExportedProgram:
    """Return a recording as the exporter takes it, its parameters named.

    `torch.export.export` would trace every operation once more, which takes as long as the rest of an export. What
    ONNX has no form for is decomposed here, if anything.

    Args:
        recording: of `record`.
        names: address of a tensor's memory → its name; others are numbered.
    """
    program = _with_lifted_constants(recording, names)

    def run_decompositions(table: dict[Any, Any]) -> ExportedProgram:
        if not any(node.target in table for node in program.graph.nodes):
            return program
        given = [node.meta["val"] for node in recording.graph.find_nodes(op="placeholder")]
        with given[0].fake_mode:
            decomposed = make_fx(recording, decomposition_table=table, _allow_non_fake_inputs=True)(*given)
        return _with_lifted_constants(decomposed, names)

    program.run_decompositions = run_decompositions
    return program


def _with_lifted_constants(recording: fx.GraphModule, names: Mapping[int, str]) -> ExportedProgram:
    """Return a program whose parameters are inputs, as an exported program has them."""
    graph = copy.deepcopy(recording.graph)
    given = graph.find_nodes(op="placeholder")
    mode: FakeTensorMode = given[0].meta["val"].fake_mode
    constants: dict[str, Any] = {}
    specs: list[InputSpec] = []
    for node in graph.find_nodes(op="get_attr"):
        constant = getattr(recording, str(node.target)).detach()
        name = names.get(constant.data_ptr(), f"constant.{len(constants)}")
        constants[name] = constant
        with graph.inserting_before(given[0]):
            lifted = graph.placeholder(node.name)
        lifted.meta["val"] = mode.from_tensor(constant, static_shapes=True)
        specs.append(InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(lifted.name), name))
        node.replace_all_uses_with(lifted)
        graph.erase_node(node)
    specs += [InputSpec(InputKind.USER_INPUT, TensorArgument(node.name), None) for node in given]
    for node in graph.nodes:
        node.meta["nn_module_stack"] = {}  # the exporter warns of every node that has none
    returned: Any = graph.output_node().args[0]
    outputs = [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(node.name), None) for node in returned]
    return ExportedProgram(
        root=recording,
        graph=graph,
        graph_signature=ExportGraphSignature(specs, outputs),
        state_dict={},
        range_constraints={},
        module_call_graph=[ModuleCallEntry("")],
        constants=constants,
    )
