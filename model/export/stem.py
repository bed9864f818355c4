"""The first layers of an int8 graph, which stay in float32: what they are, and how they read the image.

Of the error of a MobileNetV2 all in int8, rounding what its first two convolutions read made more than all else
together, and they gain next to nothing from it: ONNX Runtime has no int8 kernel for three channels.
"""

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from model.explain.explainer import Explainer
from model.export.tracing import drop_unused_initializers, initializers


def stem_length(convolutions: Sequence[NodeProto], weights: dict[str, TensorProto]) -> int:
    """Return how many of a network's convolutions stay in float32.

    The first, the depthwise one that may follow, and the narrow one behind that: rounding begins where the map is
    narrowest, which also costs less than the third convolution gains.

    Args:
        convolutions: of the network, in its order.
        weights: by name.
    """
    shapes = [list(weights[node.input[1]].dims) for node in convolutions[:3]]
    if len(shapes) < 2 or shapes[1][1] != 1:
        return 1
    return 3 if len(shapes) == 3 and shapes[2][2:] == [1, 1] else 2


def read_pixels(model: ModelProto, explainer: Explainer) -> None:
    """Let the convolutions that read the image multiply by the normalisation's scale, which then costs nothing.

    They read pixels minus their mean, so that the zeros beside the image are still the mean. A graph in which anything
    else reads the normalised image stays as it is.

    Args:
        model: with batch norms folded; changed in place.
        explainer: that it was traced from.
    """
    stored, value, passed = initializers(model), "image", dict[str, NodeProto]()
    while readers := [node for node in model.graph.node if value in node.input and node.op_type != "Shape"]:
        if readers[0].op_type == "Conv":
            break
        operator = readers[0].op_type
        known = operator in ("Reshape", "Cast", "Transpose") or (operator in ("Mul", "Add") and operator not in passed)
        if len(readers) > 1 or not known:
            return
        passed[operator] = readers[0]
        value = readers[0].output[0]
    if not {"Mul", "Add"} <= passed.keys() or any(node.op_type != "Conv" for node in readers):
        return
    scaled, shifted = passed["Mul"], passed["Add"]
    multiplied, added = (next(stored[name] for name in node.input if name in stored) for node in (scaled, shifted))
    scale, shift = (numpy_helper.to_array(tensor).astype(np.float64) for tensor in (multiplied, added))
    added.CopyFrom(numpy_helper.from_array((shift / scale).astype(np.float32), added.name))
    shifted.input[:] = [scaled.input[0] if scaled.input[0] not in stored else scaled.input[1], added.name]
    model.graph.node.remove(scaled)
    for name in {node.input[1] for node in readers}:
        weight = numpy_helper.to_array(stored[name]) * explainer.scale.numpy()[None]
        stored[name].CopyFrom(numpy_helper.from_array(weight.astype(np.float32), name))
    drop_unused_initializers(model)
