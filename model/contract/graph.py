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
        "mark": Value("int64", "NM"),
    }
)
"""Name → input, in the graph's order: RGB (N, S, S, 3), codes (N, T) twice, index of a layer, codes (N, M).

Only a model with marks has `mark`.
"""

OUTPUTS: Mapping[str, Value] = MappingProxyType(
    {
        "logits": Value("float32", "N"),
        "probabilities": Value("float32", "N"),
        "attention": Value("float32", "N"),
        "gradcam": Value("float32", "NT"),
        "explained": Value("int64", "NT"),
        "embedding": Value("float32", "N"),
        "novelty": Value("float32", "N"),
        "marks": Value("float32", "N"),
        "mark_maps": Value("float32", "NM"),
        "marked": Value("int64", "NM"),
    }
)
"""Name → output, in the graph's order: (N, K) twice, (N, h, w), (N, T, h, w), (N, T), (N, D), (N), (N, A),
(N, M, h, w), (N, M).

What a model does not have is absent, as its manifest says: `attention` without a spatial map, `embedding` and
`novelty` where the file was made without photos, and the last three where no table of marks was trained on.
"""

MAX_TARGETS = 8
"""Most classes explained of one image in one request (T of the graph contract)."""
BEST = -1
"""Code of the class of rank 1; the class of rank r has the code -r, and a class its index."""
UNKNOWN = -1
"""Value of `explained` for a code that names no class; its map is NaN."""
MAX_MARKS = 8
"""Most marks whose maps are requested of one image (M of the graph contract), and the last rank of a mark.

The code of the mark of rank r is -r. Marks are ranked by how surely they are seen times how much more typical they are
of the first target than of the first versus, or how typical of the first target where there is no versus. Where the
class's map lies on the marks' grid, that is multiplied by how much of it lies where the mark is read.
"""
LAST_LAYER = 0
"""The layer behind which the head begins; the manifest lists the others after it."""


def inputs_of(has_marks: bool) -> list[str]:
    """Return the names of the inputs that a model has, in the graph's order."""
    return [name for name in INPUTS if name != "mark" or has_marks]


def outputs_of(*, attention: bool, embedding: bool, novelty: bool, marks: bool) -> list[str]:
    """Return the names of the outputs that a model has, in the graph's order; the arguments say what it has."""
    has = {"attention": attention, "embedding": embedding, "novelty": novelty}
    has |= dict.fromkeys(("marks", "mark_maps", "marked"), marks)
    return [name for name in OUTPUTS if has.get(name, True)]


def no_class(num_classes: int) -> int:
    """Return the code of `versus` for no contrast: K."""
    return num_classes


def no_mark(num_marks: int) -> int:
    """Return the code of `mark` for none, and the value of `marked` for a code that names none: A. Its map is NaN."""
    return num_marks


def ranks_of(num_marks: int) -> int:
    """Return how many ranks of marks have a code: eight, or A where there are fewer."""
    return min(MAX_MARKS, num_marks)


def codes_of_best(count: int, num_classes: int) -> tuple[Codes, Codes]:
    """Return `target` and `versus` that request the class of rank 1 for each of n images, (n, 1) each."""
    target = np.full((count, 1), BEST, dtype=np.int64)
    return target, np.full_like(target, no_class(num_classes))


def feeds(
    image: Images | Sequence[Images], target: Codes, versus: Codes, layer: int = LAST_LAYER, mark: Codes | None = None
) -> dict[str, Any]:
    """Return the inputs of one run by name.

    Args:
        image: RGB, uint8, (N, S, S, 3), or a list of N of (S, S, 3).
        target: codes of the classes to explain, (N, T).
        versus: codes of the classes to contrast them with, K for none, (N, T).
        layer: index into the manifest's layers.
        mark: codes of the marks whose maps are requested, (N, M); None for a model without marks.
    """
    values = (image, target, versus, np.asarray(layer, dtype=np.int64), mark)
    return {name: value for name, value in zip(INPUTS, values, strict=True) if value is not None}


def softmax(logits: npt.NDArray[np.floating[Any]], temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Return calibrated probabilities over the last axis; the arithmetic of the graph, for checks and reports."""
    if not math.isfinite(temperature) or temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    exponentials = np.exp(scaled)
    result: npt.NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result
