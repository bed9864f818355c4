"""The processes of a run: one, or several started by `torchrun`, and requests to stop."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from training.errors import TrainingError

AGREE_EVERY = 20
"""Steps between two exchanges with the other processes about stopping."""


@dataclass(frozen=True)
class ProcessGroup:
    """This process, and the group it belongs to.

    Attributes:
        device: this process computes on.
        rank: number of this process; 0 writes files and reports.
        size: number of processes.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process has reached this call."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Run the body in the leading process first, then in the others."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        if self.size == 1:
            return flag
        votes = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        return bool(votes.item())


@contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """Join the processes that `torchrun` started, if any, and leave them at the end.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:1`.

    Raises:
        TrainingError: CUDA is requested and not available.
    """
    chosen = pick_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ProcessGroup(chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield ProcessGroup(chosen, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def pick_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is CUDA where available.

    Raises:
        TrainingError: CUDA is requested and not available, or there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TrainingError(f"no device {name!r}: auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device cuda is requested, but torch finds no CUDA device")
    return device


class StopRequest:
    """Turns Ctrl-C, SIGTERM and a time budget into a stop after the present step; a second Ctrl-C stops at once.

    Before the first step there is nothing to save, so even the first Ctrl-C stops at once.

    Args:
        budget_s: stop after so many seconds; None: no limit.
        announced: answer the first signal at once with a line on the standard error.

    Attributes:
        signalled: whether a signal was received.
    """

    def __init__(self, budget_s: float | None = None, *, announced: bool = False) -> None:
        self._announced = announced
        self._deadline = None if budget_s is None else time.monotonic() + budget_s
        self.signalled = False
        self._stepping = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wanted(self) -> bool:
        """Whether a signal was received or the budget is spent."""
        return self.signalled or (self._deadline is not None and time.monotonic() >= self._deadline)

    def begin(self) -> None:
        """From now on a signal waits until the present step is done."""
        self._stepping = True

    def end(self) -> None:
        """From now on there is nothing to save again: a signal stops at once."""
        self._stepping = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signalled or not self._stepping:
            raise KeyboardInterrupt
        self.signalled = True
        if self._announced:
            # Unbuffered: the stream may be in the middle of a write.
            with suppress(OSError):
                os.write(2, b"\nstopping after this step; all of it is kept (once more: at once, from the last save)\n")
