"""Processes that vary or decode images while the network learns."""

import gc
import os
import signal
import sys
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

Item = TypeVar("Item", covariant=True)

START = "fork" if sys.platform == "linux" else None
"""How workers start: as copies of this process, which is fast, needs no `__main__` guard, and ends them with it."""

if START == "fork":
    # A copy has all objects of this process, but none of its threads. Its garbage collector would free sessions of ONNX
    # Runtime that nobody needs any more, and then wait for their threads for ever, or crash
    # (https://github.com/microsoft/onnxruntime/pull/31961): what is inherited is never collected.
    os.register_at_fork(after_in_child=gc.freeze)


def loader(items: Dataset[Item], *, workers: int, **options: Any) -> DataLoader[Item]:
    """Return the batches of a data set.

    Args:
        items: can be pickled, if there are workers.
        workers: processes that load them, each on one thread; 0: this process does.
        options: of `torch.utils.data.DataLoader`.
    """
    start = START if workers else None
    return DataLoader(items, num_workers=workers, worker_init_fn=_begin, multiprocessing_context=start, **options)


def _begin(_: int) -> None:
    # Ctrl-C reaches all processes of a terminal: the one that trains ends these, after its last step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
