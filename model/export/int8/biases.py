"""Biases that make up for the mean error of what comes before: it would be carried to the end, and costs nothing here.

Source: Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", arXiv:1906.04721.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, numpy_helper

from model.export.graphs import initializers, readers_of
from model.export.int8.convolutions import ACTIVATIONS, Matrix, convolutions, observed

PHOTOS = 40
"""Limit of photos; each has thousands of cells."""


def correct_biases(
    quantised: ModelProto, model: ModelProto, names: Collection[str], feeds: Sequence[Mapping[str, Any]]
) -> None:
    """Move the biases so that the means of the convolutions without activation are those of the float graph.

    One after the other, as the later ones read what the earlier ones give.

    Args:
        quantised: from `model`; changed in place.
        model: in float32.
        names: of the nodes that were quantised.
        feeds: inputs of `model` for each photo.
    """
    readers, stored, feeds = readers_of(model), initializers(quantised), feeds[:PHOTOS]
    made = {name for node in quantised.graph.node for name in node.output}
    linear = {
        one.node.output[0]: one
        for one in convolutions(model).values()
        if one.node.name in names and not any(node.op_type in ACTIVATIONS for node in readers[one.node.output[0]])
    }
    expected = _means(model, [*linear], feeds)
    for value, convolution in linear.items():
        rounded = f"{value}_DequantizeLinear_Output"
        if rounded not in made:
            continue
        bias, scale = (stored[f"{convolution.bias.name}_{kind}"] for kind in ("quantized", "quantized_scale"))
        error = _means(quantised, [rounded], feeds)[rounded] - expected[value]
        steps = numpy_helper.to_array(bias) - np.round(error / numpy_helper.to_array(scale))
        bias.CopyFrom(numpy_helper.from_array(steps.astype(np.int32), bias.name))


def _means(model: ModelProto, names: Sequence[str], feeds: Sequence[Mapping[str, Any]]) -> dict[str, Matrix]:
    """Return the mean of each channel of some values, (C,) each."""
    sums: dict[str, Matrix] = dict.fromkeys(names, np.zeros((), np.float64))
    for values in observed(model, names, feeds):
        for name, value in values.items():
            sums[name] = sums[name] + value.mean((1, 2), dtype=np.float64)
    return {name: total / len(feeds) for name, total in sums.items()}
