"""Run a graph on images, and take its answers apart."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor

from model.contract.graph import LAST_LAYER, Codes, Images, feeds, no_mark

Array = npt.NDArray[np.generic]
Runnable: TypeAlias = bytes | onnxruntime.InferenceSession
"""A graph: serialised ONNX, or a session of it, which takes seconds to make."""
Row = dict[str, Array]
"""A graph's outputs for one image by name, (1, …)."""


class ParityError(RuntimeError):
    """The exported graph does not compute what the network computes; nothing was written."""


def session(model: Runnable) -> onnxruntime.InferenceSession:
    """Return a CPU session with as many threads as torch takes; a session is returned as it is."""
    if isinstance(model, onnxruntime.InferenceSession):
        return model
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(
    runtime: onnxruntime.InferenceSession,
    images: Images,
    target: Codes,
    versus: Codes,
    layer: int = LAST_LAYER,
    mark: Codes | None = None,
) -> dict[str, Array]:
    """Run a graph and return its outputs by name; of a graph with marks the map of none is requested by default."""
    shapes = {output.name: output.shape for output in runtime.get_outputs()}
    if mark is None and "marks" in shapes:
        mark = np.full((len(images), 1), no_mark(shapes["marks"][1]), dtype=np.int64)
    return dict(zip(shapes, runtime.run([*shapes], feeds(images, target, versus, layer, mark)), strict=True))


def rows_of(outputs: dict[str, Array], count: int) -> list[Row]:
    """Return a graph's outputs image by image.

    Args:
        outputs: by name, (N, …).
        count: N, how many images the graph was given.

    Raises:
        ParityError: an output has another number of rows.
    """
    for name, value in outputs.items():
        if len(value) != count:
            raise ParityError(f"the output {name} has {len(value)} rows for {count} images")
    return [{name: value[[index]] for name, value in outputs.items()} for index in range(count)]


def largest_difference(found: Array, expected: Tensor) -> float:
    """Return the largest absolute difference of an output from torch's; 0 where both are empty.

    Raises:
        ParityError: they differ in shape.
    """
    if found.shape != tuple(expected.shape):
        raise ParityError(f"an output has the shape {found.shape} instead of {tuple(expected.shape)}")
    return float(np.abs(found - expected.numpy()).max(initial=0.0))
