"""The parity check finds what it must find."""

import dataclasses

import numpy as np
import onnx
import pytest

from model.explain.explainer import ExplainableNetwork, Explainer
from model.export.export import load_network, read
from model.export.graphs import subgraphs
from model.export.parity import ParityReport, check_parity
from model.export.running import ParityError
from tests.model.networks import Exported


def _explainer(tiny: Exported, **changes: object) -> Explainer:
    network, manifest = load_network(tiny.path)
    return Explainer(ExplainableNetwork(network.requires_grad_(False)), manifest.model_copy(update=changes))


def test_the_file_agrees_with_its_network(tiny: Exported) -> None:
    """Measured again, the errors are those of the manifest and far below the tolerance."""
    report = check_parity(tiny.path.read_bytes(), _explainer(tiny), tiny.images)
    assert report.errors.keys() == tiny.report.errors.keys()
    assert max(report.errors.values()) < 1e-5


@pytest.mark.parametrize("change", [{"temperature": 1.5}, {"mean": (0.5, 0.4, 0.31)}])
def test_another_manifest_is_noticed(tiny: Exported, change: dict[str, object]) -> None:
    """A temperature or normalisation that is not the graph's is an error."""
    with pytest.raises(ParityError):
        check_parity(tiny.path.read_bytes(), _explainer(tiny, **change), tiny.images)


@pytest.mark.parametrize("name", ["head.5.bias", "backbone.features.12.squeeze.weight", "attention.gate.fc2.bias"])
def test_one_changed_weight_is_noticed(tiny: Exported, name: str) -> None:
    """A graph with one changed tensor is refused, wherever the tensor is."""
    model = read(tiny.path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[0] += 1
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    with pytest.raises(ParityError):
        check_parity(model.SerializeToString(), _explainer(tiny), tiny.images)


def test_a_wrong_gradient_of_an_earlier_layer_is_noticed(tiny: Exported) -> None:
    """What float32 allows an earlier layer's map is far less than one mask that is left out of its branch."""
    model = read(tiny.path)
    branch = next(part for part in subgraphs(model.graph) if part.name == "layer2")
    mask = next(node for node in branch.node if node.op_type == "Where")
    mask.op_type, passed = "Identity", mask.input[2]
    mask.input[:] = [passed]
    with pytest.raises(ParityError) as caught:
        check_parity(model.SerializeToString(), _explainer(tiny), tiny.images)
    assert "nan" not in str(caught.value)


@pytest.mark.parametrize("output", ["gradcam", "attention", "probabilities"])
def test_a_wrong_output_is_noticed(tiny: Exported, output: str) -> None:
    """Each output is compared, not the logits alone."""
    model = read(tiny.path)
    for node in model.graph.node:
        node.output[:] = ["right" if name == output else name for name in node.output]
        node.input[:] = ["right" if name == output else name for name in node.input]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1.001), "factor"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["right", "factor"], [output]))
    with pytest.raises(ParityError, match=output):
        check_parity(model.SerializeToString(), _explainer(tiny), tiny.images)


def test_a_report_with_nan_does_not_pass() -> None:
    """NaN is no agreement, and the report is readable."""
    report = ParityReport(3, {"logits": 1e-6, "gradcam.layer4": 2e-5})
    assert report.passed
    assert not dataclasses.replace(report, errors={"logits": float("nan")}).passed
    assert not dataclasses.replace(report, tolerance=1e-5).passed
    assert "gradcam.layer4" in str(report)
    assert report.to_metrics() == {"images": 3.0, "tolerance": 1e-4, "logits": 1e-6, "gradcam.layer4": 2e-5}
