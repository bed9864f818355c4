"""Processes that vary or decode images while the network learns."""

import multiprocessing
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

Item = TypeVar("Item", covariant=True)

START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
"""How a worker starts: never as a copy of this process. A copy has none of its threads, but all of its objects.

A copy's garbage collector would free the sessions of ONNX Runtime that are no longer needed, wait forever for their
threads, or crash (https://github.com/microsoft/onnxruntime/pull/31961).
"""
PRELOAD = "training.data.batches"
"""Imported once, by the server that workers are copies of, instead of in every worker."""


def loader(items: Dataset[Item], *, workers: int, **options: Any) -> DataLoader[Item]:
    """Return the batches of a data set.

    Args:
        items: can be pickled, if there are workers.
        workers: processes that load them, each on one thread; 0: this process does.
        options: of `torch.utils.data.DataLoader`.
    """
    return DataLoader(items, num_workers=workers, multiprocessing_context=_context() if workers else None, **options)


def _context() -> BaseContext:
    context = multiprocessing.get_context(START)
    if START == "forkserver":
        context.set_forkserver_preload([PRELOAD])
    return context
