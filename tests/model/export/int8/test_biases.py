"""Biases that make up for a mean error."""

import numpy as np
import pytest
from onnx import numpy_helper

from model.contract.geometry import Resize
from model.contract.manifest import synthetic_images
from model.export.export import explainer_of
from model.export.graphs import initializers
from model.export.int8 import quantise as module
from model.export.int8.biases import correct_biases
from model.export.int8.convolutions import observed
from model.export.tracing import trace
from tests.model.networks import make_manifest, make_small

SIDE = 40


def test_the_means_of_what_is_added_are_those_of_the_float_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bias that was moved far off comes back; one behind an activation is not touched."""
    explainer = explainer_of(make_small(), make_manifest(resize=Resize(size=SIDE, crop=SIDE)), "last")
    explainer.classifier.layers = explainer.classifier.layers[:1]
    images = np.concatenate([synthetic_images(seed, 4, SIDE) for seed in range(3)])
    seen = []
    monkeypatch.setattr(module, "correct_biases", lambda *given: seen.append(given))
    module.quantise(trace(explainer, SIDE), explainer, images)
    ((quantised, model, names, feeds),) = seen
    value = next(node.input[0] for node in model.graph.node if node.op_type == "Add" and node.name in names)
    rounded = f"{value}_DequantizeLinear_Output"
    node = next(node for node in model.graph.node if value in node.output)
    assert node.op_type == "Conv"
    bias = initializers(quantised)[f"{node.input[2]}_quantized"]
    kept = numpy_helper.to_array(bias)
    bias.CopyFrom(numpy_helper.from_array(kept + np.array([400, -300] * (len(kept) // 2), np.int32), bias.name))

    def error() -> float:
        pairs = zip(observed(quantised, [rounded], feeds), observed(model, [value], feeds), strict=True)
        differences = [one[rounded].mean((1, 2)) - other[value].mean((1, 2)) for one, other in pairs]
        return float(np.abs(np.mean(differences, axis=0)).max())

    before, others = error(), {name: tensor.SerializeToString() for name, tensor in initializers(quantised).items()}
    correct_biases(quantised, model, names, feeds)
    assert error() < 0.2 * before
    changed = {name for name, tensor in initializers(quantised).items() if tensor.SerializeToString() != others[name]}
    assert bias.name in changed
    assert all(name.endswith("_quantized") and "bias" in name for name in changed)
