"""A piece of work: as it waits in a queue, as its run saw it, and what came of it."""

import asyncio
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

P = TypeVar("P")
R = TypeVar("R")


class WorkerLost(Exception):
    """A run failed in a way that no further run survives (a lost GPU): ends the worker instead of the request."""


@dataclass(frozen=True, slots=True)
class Done(Generic[R]):
    """The outcome of one piece of work.

    Attributes:
        result: what the run returned for it.
        queue_s: time it waited, seconds.
        run_s: time its batch ran, seconds.
        batch_size: pieces of work in its batch.
    """

    result: R
    queue_s: float
    run_s: float
    batch_size: int


@dataclass(eq=False, slots=True)
class Item(Generic[P, R]):
    """A piece of work that waits.

    Attributes:
        payload: handed to the run.
        key: only work with equal keys shares a batch.
        deadline: when it must have been started, on `time.monotonic()`'s clock; None: whenever.
        future: of its outcome.
        since: when it was queued.
        begun: whether a thread has begun it.
    """

    payload: P
    key: Hashable
    deadline: float | None
    future: "asyncio.Future[Done[R]]"
    since: float = field(default_factory=time.monotonic)
    begun: bool = False


@dataclass(frozen=True, slots=True)
class Ran(Generic[P, R]):
    """A run as its thread saw it.

    Attributes:
        items: what was still wanted when its turn came.
        results: theirs.
        started: when.
        run_s: how long it took, seconds.
    """

    items: Sequence[Item[P, R]]
    results: Sequence[R]
    started: float
    run_s: float
