"""Weights rounded to int8 so that outputs change little: what rounding one weight loses, the next ones make up for.

To the nearest step keeps each weight, not their sums: the inputs of a convolution depend on one another.
Source: Frantar et al. 2023, "GPTQ", arXiv:2210.17323.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from model.export.running import session
from model.export.tracing import initializers

DAMPING = 0.01
"""Added to every input's power, as a share of their mean: few photos must not decide about rare inputs."""
CELLS = 400
"""Limit of cells of each map that are looked at, of each photo."""
LARGEST = 127

Matrix = npt.NDArray[np.floating]


def round_to_outputs(
    quantised: ModelProto, model: ModelProto, names: Iterable[str], feeds: Iterable[Mapping[str, Any]]
) -> None:
    """Round the weights of the 1×1 convolutions again, by their inputs for some photos.

    Args:
        quantised: by ONNX Runtime, from `model`; changed in place.
        model: in float32.
        names: of the nodes that were quantised.
        feeds: inputs of `model` for each photo.
    """
    stored, chosen, weights = initializers(quantised), set(names), initializers(model)
    convolutions = [
        node
        for node in model.graph.node
        if node.name in chosen and node.op_type == "Conv" and _is_pointwise(node, weights[node.input[1]].dims)
    ]
    products = _products(model, {node.input[0] for node in convolutions}, feeds)
    for node in convolutions:
        rounded, scale = (stored[f"{node.input[1]}_{kind}"] for kind in ("quantized", "scale"))
        weight = numpy_helper.to_array(weights[node.input[1]])
        steps = rounded_columns(weight[:, :, 0, 0], numpy_helper.to_array(scale), products[node.input[0]])
        rounded.CopyFrom(numpy_helper.from_array(steps.reshape(weight.shape), rounded.name))


def rounded_columns(weight: Matrix, scale: Matrix, products: Matrix) -> npt.NDArray[np.int8]:
    """Return the steps of a matrix's weights, (out, in).

    Args:
        weight: (out, in).
        scale: size of a step for each output, (out,).
        products: mean products of every two inputs, (in, in).
    """
    count = len(products)
    powers = np.diag(products)
    damped = products + np.diag(np.where(powers > 0, DAMPING * powers.mean(), 1.0))
    # The strongest inputs first: what their rounding loses, all others can make up for.
    order = np.argsort(-powers, kind="stable")
    factor = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    left, steps = weight[:, order].astype(np.float64), np.empty(weight.shape, np.int8)
    for index in range(count):
        whole = np.clip(np.round(left[:, index] / scale), -LARGEST, LARGEST)
        lost = (left[:, index] - whole * scale) / factor[index, index]
        left[:, index:] -= np.outer(lost, factor[index, index:])
        steps[:, order[index]] = whole
    return steps


def _is_pointwise(node: NodeProto, dims: Iterable[int]) -> bool:
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return groups == 1 and [*dims][2:] == [1, 1]


def _products(model: ModelProto, names: set[str], feeds: Iterable[Mapping[str, Any]]) -> dict[str, Matrix]:
    """Return the mean products of every two channels of some maps, (C, C) each."""
    if not names:
        return {}
    probed, wanted = ModelProto(), sorted(names)
    probed.CopyFrom(model)
    del probed.graph.output[:]
    probed.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted)
    runtime = session(probed.SerializeToString())
    taken = {value.name for value in runtime.get_inputs()}
    sums: dict[str, Matrix] = dict.fromkeys(wanted, np.zeros((), np.float64))
    for each in feeds:
        found = runtime.run(wanted, {name: value for name, value in each.items() if name in taken})
        for name, value in zip(wanted, found, strict=True):
            cells = value[0].reshape(value.shape[1], -1)
            spread = np.linspace(0, cells.shape[1] - 1, min(CELLS, cells.shape[1])).astype(int)
            cells = cells[:, spread].astype(np.float64)
            sums[name] = sums[name] + cells @ cells.T / cells.shape[1]
    return sums
