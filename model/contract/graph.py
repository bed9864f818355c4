"""The graph contract: inputs and outputs of an exported file, by name, type and code.

The one definition for the exporter, which writes the graph, and for everything that runs it: the parity check,
the evaluation of a file, the engine of the service.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.int64]


class Value(NamedTuple):
    """An input or output of the graph.

    Attributes:
        dtype: numpy's name of the type.
        free: names of the first axes, which are free; the other axes are fixed by the model.
    """

    dtype: str
    free: str


INPUTS: Mapping[str, Value] = MappingProxyType(
    {
        "image": Value("uint8", "N"),
        "target": Value("int64", "NT"),
        "versus": Value("int64", "NT"),
        "layer": Value("int64", ""),
    }
)
"""Name → input, in the graph's order: RGB (N, S, S, 3), codes (N, T) twice, index of a layer."""

OUTPUTS: Mapping[str, Value] = MappingProxyType(
    {
        "logits": Value("float32", "N"),
        "probabilities": Value("float32", "N"),
        "attention": Value("float32", "N"),
        "gradcam": Value("float32", "NT"),
        "explained": Value("int64", "NT"),
    }
)
"""Name → output, in the graph's order: (N, K) twice, (N, h, w), (N, T, h, w), (N, T).

A model without a spatial map has no `attention`; its manifest says so.
"""

MAX_TARGETS = 8
"""Most classes explained of one image in one request (T of the graph contract)."""
BEST = -1
"""Code of the class of rank 1; the class of rank r has the code -r, and a class its index."""
UNKNOWN = -1
"""Value of `explained` for a code that names no class; its map is NaN."""
LAST_LAYER = 0
"""The layer behind which the head begins; the manifest lists the others after it."""


def no_class(num_classes: int) -> int:
    """Return the code of `versus` for no contrast: K."""
    return num_classes


def codes_of_best(count: int, num_classes: int) -> tuple[Codes, Codes]:
    """Return `target` and `versus` that request the class of rank 1 for each of n images, (n, 1) each."""
    target = np.full((count, 1), BEST, dtype=np.int64)
    return target, np.full_like(target, no_class(num_classes))


def feeds(image: Images | Sequence[Images], target: Codes, versus: Codes, layer: int = LAST_LAYER) -> dict[str, Any]:
    """Return the inputs of one run by name.

    Args:
        image: RGB, uint8, (N, S, S, 3), or a list of N of (S, S, 3).
        target: codes of the classes to explain, (N, T).
        versus: codes of the classes to contrast them with, K for none, (N, T).
        layer: index into the manifest's layers.
    """
    return dict(zip(INPUTS, (image, target, versus, np.asarray(layer, dtype=np.int64)), strict=True))


def expected_outputs(has_attention: bool) -> list[str]:
    """Return the names of the outputs that a model has, in the graph's order."""
    return [name for name in OUTPUTS if name != "attention" or has_attention]


def softmax(logits: npt.NDArray[np.floating[Any]], temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Return calibrated probabilities over the last axis; the arithmetic of the graph, for checks and reports."""
    if not math.isfinite(temperature) or temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    exponentials = np.exp(scaled)
    result: npt.NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result
