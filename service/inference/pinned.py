"""Page-locked host memory: the GPU copies from it without a detour, about three times as fast as from ordinary memory.

ONNX Runtime's Python binding offers none, so the CUDA runtime that it loaded into this process is asked directly.

Source: CUDA Runtime API, cudaHostAlloc / cudaFreeHost.
"""

import ctypes
import logging
import math
import weakref
from pathlib import Path

import numpy as np
import numpy.typing as npt

_MAPS = Path("/proc/self/maps")

logger = logging.getLogger(__name__)


def pinned_array(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return a zeroed uint8 array in pinned memory; in ordinary memory, with a log line, where there is none."""
    num_bytes = math.prod(shape)
    runtime = _cuda_runtime()
    pointer = ctypes.c_void_p()
    if runtime is None or runtime.cudaHostAlloc(ctypes.byref(pointer), ctypes.c_size_t(num_bytes), 0) != 0:
        logger.warning("no pinned memory: copies to the GPU take the slow way")
        return np.zeros(shape, dtype=np.uint8)
    assert pointer.value is not None  # noqa: S101 - cudaHostAlloc answered success
    buffer = (ctypes.c_uint8 * num_bytes).from_address(pointer.value)
    weakref.finalize(buffer, runtime.cudaFreeHost, ctypes.c_void_p(pointer.value))
    array: npt.NDArray[np.uint8] = np.ctypeslib.as_array(buffer).reshape(shape)
    array[...] = 0
    return array


def _cuda_runtime(maps: Path = _MAPS) -> ctypes.CDLL | None:
    """Return the CUDA runtime library that this process has loaded, or None."""
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return None
    paths = sorted({line.split(maxsplit=5)[5] for line in lines if "libcudart" in line and line.count("/")})
    for path in paths:
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        if hasattr(library, "cudaHostAlloc"):
            return library
    return None
