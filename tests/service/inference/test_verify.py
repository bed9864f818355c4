"""The checks of a model before it is served: does it compute what was exported?"""

from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from model.contract.manifest import Layer, Manifest
from service.inference.batcher import WorkerLost
from service.inference.engine import OnnxEngine, Outputs
from service.inference.sessions import ModelRejected
from service.inference.verify import check_layers, check_marks, self_check
from service.settings import BUNDLED_MODEL
from tests.service.inference.conftest import ON_CPU
from tests.service.tiny_model import marked_manifest, tiny_manifest, tiny_model, tiny_self_check


def test_self_check_passes_and_fails(tiny: OnnxEngine) -> None:
    """The logits of the manifest distinguish a model that computes as exported from one that does not."""
    self_check(tiny)
    wrong = OnnxEngine(tiny_model(tiny_manifest(self_check=tiny_self_check(offset=0.5))), ON_CPU)
    with pytest.raises(ModelRejected, match=r"off by 0\.5"):
        self_check(wrong)


def test_self_check_refuses_numbers_that_are_not_finite() -> None:
    """A model that returns NaN is refused."""
    broken = OnnxEngine(tiny_model(tiny_manifest(), weights=np.full((3, 4), np.nan, dtype=np.float32)), ON_CPU)
    with pytest.raises(ModelRejected, match="not finite"):
        self_check(broken)


def bundled(edit: Callable[[onnx.ModelProto, list[Layer]], None]) -> OnnxEngine:
    """Return an engine of the bundled model with its graph, or the layers that its manifest lists, edited."""
    model = onnx.load(next(iter(sorted(BUNDLED_MODEL.glob("*/?.onnx")))))
    manifest = Manifest.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    layers = list(manifest.layers)
    edit(model, layers)
    onnx.helper.set_model_props(model, manifest.model_copy(update={"layers": tuple(layers)}).to_metadata())
    return OnnxEngine(model.SerializeToString(), ON_CPU)


def another_shape(_: onnx.ModelProto, layers: list[Layer]) -> None:
    """State another shape of the third layer."""
    layers[2] = layers[2].model_copy(update={"grid": (18, 18)})


def exchanged(_: onnx.ModelProto, layers: list[Layer]) -> None:
    """List two layers in the wrong order."""
    layers[3], layers[4] = layers[4], layers[3]


def one_too_many(_: onnx.ModelProto, layers: list[Layer]) -> None:
    """List one more layer, in the shape of the last stage, which the graph falls back to."""
    layers.append(layers[0].model_copy(update={"name": "features.0"}))


def one_too_few(_: onnx.ModelProto, layers: list[Layer]) -> None:
    """Forget the earliest layer."""
    layers.pop()


def parts(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside its nodes."""
    yield graph
    for attribute in (attribute for node in graph.node for attribute in node.attribute if attribute.HasField("g")):
        yield from parts(attribute.g)


def branch_of_features_6(model: onnx.ModelProto) -> onnx.GraphProto:
    """Return the part of the bundled graph that computes the map of `features.6`."""
    (branch,) = (part for part in parts(model.graph) if part.name == "layer2")
    return branch


def failing_branch(model: onnx.ModelProto, _: list[Layer]) -> None:
    """Make the map of `features.6` fail by an impossible shape."""
    (rows,) = (node for node in branch_of_features_6(model).node if node.output[0] == "layer2/rows")
    rows.attribute[0].ints[:] = [-1, 31, 36, 36]


def branch_without_numbers(model: onnx.ModelProto, _: list[Layer]) -> None:
    """Take the root of a negative map of `features.6`."""
    branch = branch_of_features_6(model)
    (end,) = branch.output
    chain = [("Exp", end.name, "positive"), ("Neg", "positive", "negative"), ("Sqrt", "negative", "root")]
    branch.node.extend(onnx.helper.make_node(kind, [source], [result]) for kind, source, result in chain)
    end.name = "root"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (another_shape, r"`features\.6` has the shape \(36, 36\), not \(18, 18\)"),
        (exchanged, r"`features\.1` has the shape"),
        (one_too_many, r"lists the layer `features\.0`, the graph has only 5"),
        (one_too_few, "more layers than the 4"),
        (failing_branch, r"the graph fails at layer `features\.6`"),
        (branch_without_numbers, r"`features\.6` has numbers that are not finite"),
    ],
)
def test_layers_must_be_those_of_the_manifest(
    edit: Callable[[onnx.ModelProto, list[Layer]], None], message: str
) -> None:
    """A layer that the graph lacks, fails at, or computes in another shape is reported by name before any request."""
    engine = bundled(edit)
    self_check(engine)
    with pytest.raises(ModelRejected, match=message):
        check_layers(engine)


def test_layers_of_the_manifest_are_checked(tiny: OnnxEngine) -> None:
    """A model of one layer, and the bundled one of several, keep what their manifests state."""
    check_layers(tiny)
    check_layers(bundled(lambda model, layers: None))


def test_lost_gpu_is_no_fault_of_a_layer() -> None:
    """If the GPU is lost during the check, this is reported, and not a bad model."""

    class Lost(OnnxEngine):
        def run(self, *_: object) -> Outputs:
            raise WorkerLost("the GPU failed")

    with pytest.raises(WorkerLost):
        check_layers(Lost(tiny_model(), ON_CPU))


def test_marks_are_checked() -> None:
    """A model with marks computes them and their maps as its manifest says; one without has nothing to check."""
    check_marks(OnnxEngine(tiny_model(marked_manifest()), ON_CPU))
    check_marks(OnnxEngine(tiny_model(), ON_CPU))


def negative_maps(model: onnx.ModelProto) -> None:
    """Subtract each map's sum from it rather than divide by it."""
    node_of(model, "all_maps").op_type = "Sub"


def infinite_maps(model: onnx.ModelProto) -> None:
    """Add infinity to each map rather than divide it."""
    node = node_of(model, "all_maps")
    node.op_type, node.input[1] = "Add", "infinity"
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(np.float32(np.inf)), "infinity"))


def marks_beyond_one(model: onnx.ModelProto) -> None:
    """Answer with negative logits in place of the marks' probabilities."""
    node_of(model, "marks").op_type = "Neg"


def no_ranks(model: onnx.ModelProto) -> None:
    """Take every code of a rank for none."""
    node_of(model, "mark_has_rank").input[1] = "minus_one"


def node_of(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    """Return the node that makes a value of the graph."""
    (node,) = (node for node in model.graph.node if node.output[0] == output)
    return node


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (negative_maps, "out of range"),
        (infinite_maps, "out of range"),
        (marks_beyond_one, "out of range"),
        (no_ranks, r"the graph marks \[0, 5, 5"),
    ],
)
def test_marks_that_are_none_are_refused(edit: Callable[[onnx.ModelProto], None], message: str) -> None:
    """Maps or probabilities out of range, and codes that are not understood, are refused before the first request."""
    with pytest.raises(ModelRejected, match=message):
        check_marks(OnnxEngine(tiny_model(marked_manifest(), edit=edit), ON_CPU))


def test_maps_of_marks_have_the_stated_grid() -> None:
    """A manifest that states another grid is refused."""
    with pytest.raises(ModelRejected, match=r"maps of the marks have the shape \(8, 8\), not \(4, 4\)"):
        check_marks(OnnxEngine(tiny_model(marked_manifest(grid=(4, 4))), ON_CPU))
