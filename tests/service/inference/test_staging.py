"""Pinned memory where there is a CUDA runtime, ordinary memory elsewhere."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from service.inference import staging
from service.inference.staging import _cuda_runtime, pinned_array


def test_without_cuda_memory_is_ordinary(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Without a CUDA runtime the array is in ordinary memory, and a warning is logged."""
    monkeypatch.setattr(staging, "_cuda_runtime", lambda: None)
    array = pinned_array((2, 3, 3, 3))
    assert ((2, 3, 3, 3), np.uint8, 0) == (array.shape, array.dtype, array.max())
    assert "no pinned memory" in caplog.text


class _Runtime:
    """The two functions of the CUDA runtime, by the C library's heap."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        self._libc = libc
        self.freed: list[int] = []

    def cudaHostAlloc(self, pointer: object, size: ctypes.c_size_t, _: int) -> int:  # noqa: N802
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_void_p))[0] = self._libc.malloc(size)
        return 0

    def cudaFreeHost(self, pointer: ctypes.c_void_p) -> int:  # noqa: N802
        assert pointer.value is not None
        self.freed.append(pointer.value)
        self._libc.free(pointer)
        return 0


def test_pinned_memory_is_zeroed_and_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The array is in the runtime's memory, which is freed with its last view."""
    runtime = _Runtime()
    monkeypatch.setattr(staging, "_cuda_runtime", lambda: runtime)
    array = pinned_array((4, 5, 5, 3))
    array[2] = 7
    view, address = array[2], array.ctypes.data
    del array
    assert (7, []) == (view.min(), runtime.freed)
    del view
    assert runtime.freed == [address]


def test_runtime_is_found_among_the_loaded_libraries(tmp_path: Path) -> None:
    """Only a library that this process has loaded, and that has the function, is used."""
    maps = tmp_path / "maps"
    maps.write_text(f"7f00-7f01 r-xp 00000000 00:00 1 {tmp_path}/libcudart.so.13\n7f01-7f02 rw-p 0 00:00 0\n")
    assert _cuda_runtime(maps) is None
    assert _cuda_runtime(tmp_path / "none") is None
