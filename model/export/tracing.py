"""From a torch explainer to an ONNX graph: trace the gradient along with the forward pass, then tidy the graph.

`torch.autograd.grad` cannot be exported, but what it does can be recorded: `make_fx` records every
operation, forward and backward, and the recording is exported like any network.
"""

import contextlib
import gc
import io
import itertools
import warnings

import onnxscript.optimizer
import torch
from onnx import GraphProto, ModelProto, helper
from torch._export.verifier import SpecViolationError
from torch.export import ExportedProgram

from model.contract.graph import INPUTS, LAST_LAYER, OUTPUTS, no_class
from model.explain.explainer import Explainer
from model.export.branches import Branch, branch_by_layer
from model.export.diagnose import describe_failure, module_stack
from model.export.graphs import drop_unread_nodes, drop_unused_initializers, subgraphs
from model.export.padding import fold_padding
from model.export.recording import Example, as_program, record

OPSET = 20
EXAMPLE_IMAGES, EXAMPLE_TARGETS, EXAMPLE_MARKS = 6, 5, 7
"""Sizes of the example batch: neither 1, which broadcasts, nor equal to each other."""


class GraphError(RuntimeError):
    """The network cannot be written as an ONNX graph; the message names the cause."""


def trace(explainer: Explainer, input_size: int) -> ModelProto:
    """Return the ONNX graph of an explainer, its parameters under their own names.

    Args:
        explainer: in evaluation mode, frozen, float32.
        input_size: side S of the images, pixels.

    Raises:
        GraphError: an operation has no ONNX form, or the number of images, targets or marks was frozen.
    """
    # A trace makes millions of objects and hardly any garbage: collecting takes a tenth of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        return _trace(explainer, input_size)
    finally:
        if collects:
            gc.enable()


def _trace(explainer: Explainer, input_size: int) -> ModelProto:
    example, network = _example(explainer, input_size), explainer.classifier.network
    blank = (example[0][:1].permute(0, 3, 1, 2).float(),)
    with module_stack(network) as running:
        try:
            recording = record(explainer, example)
        except Exception as error:  # torch and the module itself raise many kinds
            raise GraphError(describe_failure(network, blank, error, running)) from error
    earlier = range(1, len(explainer.classifier.layers))
    always = explainer.outputs
    branches = [[f"{kind}.{index}" for index in earlier] for kind in ("gradcam", "feature_map", "copies")]
    # Of tensors that share their memory the first name counts.
    names = {tensor.data_ptr(): name for name, tensor in reversed([*explainer.named_constants()])}
    try:
        program = as_program(recording, names)
        model = _translate(program, explainer.inputs, [*always, *itertools.chain(*branches)])
    except SpecViolationError as error:
        raise GraphError(f"the network modifies one of its own tensors when it classifies: {error}") from error
    except torch.onnx.OnnxExporterError as error:
        raise GraphError(describe_failure(network, blank, error, [])) from error
    model = _tidy(model)
    fold_padding(model)
    drop_unread_nodes(model)
    if earlier:
        shapes = [_static_shape(model.graph, name) for name in branches[1]]
        branch_by_layer(model, always, map(Branch, *branches, shapes))
    drop_unused_initializers(model)
    _check_symbolic(model.graph)
    return model


def _example(explainer: Explainer, size: int) -> Example:
    image = torch.zeros((EXAMPLE_IMAGES, size, size, 3), dtype=torch.uint8)
    codes = torch.zeros((EXAMPLE_IMAGES, EXAMPLE_TARGETS), dtype=torch.int64)
    mark = () if explainer.marks is None else (torch.zeros((EXAMPLE_IMAGES, EXAMPLE_MARKS), dtype=torch.int64),)
    return image, codes, codes + no_class(explainer.num_classes), torch.tensor(LAST_LAYER), *mark


def _translate(program: ExportedProgram, inputs: list[str], outputs: list[str]) -> ModelProto:
    axes = {name: torch.export.Dim(name) for name in "NTM"}
    shapes = tuple({axis: axes[free] for axis, free in enumerate(INPUTS[name].free)} for name in inputs)
    # The exporter prints its progress on stdout and warns of deprecations inside itself.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            program,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            optimize=False,
        )
    if exported is None:
        raise GraphError("torch.onnx.export returned nothing")
    model: ModelProto = exported.model_proto
    return model


def _tidy(model: ModelProto) -> ModelProto:
    """Fold constants, drop what is unused, and strip paths of this machine that the exporter adds."""
    stored = list(model.graph.initializer)
    del model.graph.initializer[:]
    # Parameters stand in as inputs, so that none is folded away or loses its name.
    given = len(model.graph.input)
    model.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in stored)
    model = onnxscript.optimizer.optimize(model)
    del model.graph.input[given:]
    model.graph.initializer.extend(stored)
    for part in subgraphs(model.graph):
        for item in (part, *part.node, *part.input, *part.output, *part.initializer):
            item.ClearField("metadata_props")
            item.ClearField("doc_string")
        del part.value_info[:]
    model.ClearField("metadata_props")
    return model


def _static_shape(graph: GraphProto, output: str) -> tuple[int, int, int]:
    """Return (C, h, w) of a feature map among the outputs."""
    value = next(value for value in graph.output if value.name == output)
    channels, height, width = (dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])
    return channels, height, width


def _check_symbolic(graph: GraphProto) -> None:
    """Raise unless N, T and M are free in every input and output."""
    contract = {**INPUTS, **OUTPUTS}
    for value in (*graph.input, *graph.output):
        wanted = contract[value.name].free
        dims = value.type.tensor_type.shape.dim
        found = "".join(dim.dim_param for dim in dims[: len(wanted)])
        if found != wanted:
            raise GraphError(f"{value.name}: the axes {', '.join(wanted)} were frozen in the trace")
