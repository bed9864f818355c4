"""Copies batches to the GPU from page-locked (pinned) host memory.

The GPU reads such memory directly, about three times as fast as ordinary memory. ONNX Runtime's Python binding offers
none, so this calls the CUDA runtime that it loaded into this process.

Source: CUDA Runtime API, cudaHostAlloc / cudaFreeHost.
"""

import contextlib
import ctypes
import logging
import math
import re
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.inference.sessions import runtime

_MAPS = Path("/proc/self/maps")

logger = logging.getLogger(__name__)


def pinned_array(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return a zeroed uint8 array in pinned memory, or in ordinary memory, with a log line, where there is none."""
    num_bytes = math.prod(shape)
    cuda = _cuda_runtime()
    pointer = ctypes.c_void_p()
    if cuda is None or cuda.cudaHostAlloc(ctypes.byref(pointer), ctypes.c_size_t(num_bytes), 0) or not pointer.value:
        logger.warning("no pinned memory: copies to the GPU are slower")
        return np.zeros(shape, dtype=np.uint8)
    buffer = (ctypes.c_uint8 * num_bytes).from_address(pointer.value)
    weakref.finalize(buffer, cuda.cudaFreeHost, pointer)
    array: npt.NDArray[np.uint8] = np.ctypeslib.as_array(buffer).reshape(shape)
    array[...] = 0
    return array


def _cuda_runtime(maps: Path = _MAPS) -> ctypes.CDLL | None:
    """Return the CUDA runtime library that this process has loaded, or None."""
    with contextlib.suppress(OSError):
        for path in sorted(set(re.findall("/.*libcudart.*", maps.read_text()))):
            with contextlib.suppress(OSError):
                if hasattr(library := ctypes.CDLL(path), "cudaHostAlloc"):
                    return library
    return None


class Staging:
    """Runs padded batches on the GPU, with pinned host memory and a device tensor for every size.

    Args:
        session: of ONNX Runtime.
        side: of the square images, pixels.
        outputs: names of the outputs to fetch.
        device: of the session; `cpu` in tests.
    """

    def __init__(self, session: Any, side: int, outputs: Sequence[str], device: str = "cuda") -> None:
        self._session = session
        self._side = side
        self._outputs = outputs
        self._device = device
        self._slots: dict[int, tuple[npt.NDArray[np.uint8], Any]] = {}
        self._one_at_a_time = threading.Lock()

    def run(self, feeds: Mapping[str, Any], size: int) -> list[Any]:
        """Run a batch padded to `size` and return its outputs; the last rows are padding.

        Args:
            feeds: inputs by name; the images are at most `size`, the other inputs are padded already.
            size: of the batch that runs.
        """
        with self._one_at_a_time:
            host, on_device = self._slot(size)
            for row, image in zip(host, feeds["image"], strict=False):
                row[...] = image
            # The other rows hold an earlier batch: their outputs are dropped.
            on_device.update_inplace(host)
            binding = self._session.io_binding()
            binding.bind_ortvalue_input("image", on_device)
            for name in feeds.keys() - {"image"}:
                binding.bind_cpu_input(name, feeds[name])
            for name in self._outputs:
                binding.bind_output(name, "cpu")
            self._session.run_with_iobinding(binding)
            fetched: list[Any] = binding.copy_outputs_to_cpu()
            return fetched

    def _slot(self, size: int) -> tuple[npt.NDArray[np.uint8], Any]:
        if size not in self._slots:
            shape = (size, self._side, self._side, 3)
            host = pinned_array(shape) if self._device == "cuda" else np.zeros(shape, np.uint8)
            on_device = runtime().OrtValue.ortvalue_from_shape_and_type(list(shape), np.uint8, self._device, 0)
            self._slots[size] = (host, on_device)
        return self._slots[size]
