"""The processes of a run: one, or several started by `torchrun`, and how they are asked to stop."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from training.errors import TrainingError

AGREE_EVERY = 20
"""Steps between two questions to the other processes whether somebody wants to stop."""


@dataclass(frozen=True)
class World:
    """This process among all.

    Attributes:
        device: it computes on.
        rank: its number; 0 writes files and talks.
        size: how many there are.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Let the leading process go through the body before the others do."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    def share(self, value: Any) -> Any:
        """Return the leading process's value in every process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        if self.size == 1:
            return flag
        votes = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        return bool(votes.item())


@contextmanager
def joined_world(device: str) -> Iterator[World]:
    """Join the processes `torchrun` started, if it did, and leave them at the end.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:1`.

    Raises:
        TrainingError: CUDA was asked for and is not there.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(pick_device(device))
        return
    chosen = pick_device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(chosen, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def pick_device(name: str) -> torch.device:
    """Return the device of that name; `auto` takes CUDA where it is.

    Raises:
        TrainingError: CUDA was asked for and is not there, or there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TrainingError(f"no device {name!r}: auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device cuda was asked for, but torch sees no CUDA device")
    return device


class StopRequest:
    """Turns Ctrl-C, SIGTERM and a time budget into a stop after the present step; a second Ctrl-C stops at once.

    Before the first step there is nothing to save, so there even the first one stops at once.

    Args:
        budget_s: stop after so many seconds; None: no limit.
    """

    def __init__(self, budget_s: float | None = None) -> None:
        self._deadline = None if budget_s is None else time.monotonic() + budget_s
        self._signalled = False
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
        """Whether to stop now."""
        return self._signalled or (self._deadline is not None and time.monotonic() >= self._deadline)

    @property
    def signalled(self) -> bool:
        """Whether a person or a supervisor asked, rather than the budget."""
        return self._signalled

    def begin(self) -> None:
        """Note that steps are taken from now on: a signal waits for the present one."""
        self._stepping = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signalled or not self._stepping:
            raise KeyboardInterrupt
        self._signalled = True
