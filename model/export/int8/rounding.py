"""Weights rounded to int8 so that outputs change little: what rounding one weight loses, the next ones make up for.

To the nearest step keeps each weight, not their sums: the inputs of a convolution depend on one another.
Source: Frantar et al. 2023, "GPTQ", arXiv:2210.17323.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, numpy_helper

from model.export.graphs import initializers
from model.export.int8.convolutions import Convolution, Matrix, convolutions, observed

DAMPING = 0.001
"""Added to every input's power, as a share of their mean: few photos must not decide about rare inputs."""
CELLS = 1500
"""Limit of cells of each map that are looked at, of each photo."""
MOST_INPUTS = 2048
"""Limit of the inputs of a cell: beyond, the matrices take minutes, and errors of so many weights cancel out more."""
LARGEST = 127


def round_to_outputs(
    quantised: ModelProto, model: ModelProto, names: Collection[str], feeds: Sequence[Mapping[str, Any]]
) -> None:
    """Round the weights of the convolutions again, by their inputs for some photos.

    Args:
        quantised: by ONNX Runtime, from `model`; changed in place.
        model: in float32.
        names: of the nodes that were quantised.
        feeds: inputs of `model` for each photo.
    """
    found, stored = convolutions(model), initializers(quantised)
    chosen = {
        name: one
        for name, one in found.items()
        if name in names and not one.dilated and np.prod(one.weight.dims[1:]) <= MOST_INPUTS
    }
    products = _products(model, chosen, feeds)
    for name, convolution in chosen.items():
        rounded, scale = (stored[f"{convolution.weight.name}_{kind}"] for kind in ("quantized", "scale"))
        weight, steps = numpy_helper.to_array(convolution.weight), numpy_helper.to_array(scale)
        flat = weight.reshape(convolution.groups, -1, weight[0].size)
        of_groups = zip(flat, steps.reshape(flat.shape[:2]), products[name], strict=True)
        whole = np.stack([rounded_columns(*each) for each in of_groups])
        rounded.CopyFrom(numpy_helper.from_array(whole.reshape(weight.shape), rounded.name))


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


def _products(
    model: ModelProto, chosen: Mapping[str, Convolution], feeds: Sequence[Mapping[str, Any]]
) -> dict[str, Matrix]:
    """Return the mean products of every two inputs of a cell, (groups, n, n), by the name of the convolution."""
    inputs = sorted({convolution.node.input[0] for convolution in chosen.values()})
    sums: dict[str, Matrix] = dict.fromkeys(chosen, np.zeros((), np.float64))
    for values in observed(model, inputs, feeds):
        for name, convolution in chosen.items():
            cells = convolution.patches(values[convolution.node.input[0]], CELLS).astype(np.float64)
            sums[name] = sums[name] + cells @ cells.transpose(0, 2, 1) / cells.shape[2]
    return sums
