"""The queue in front of a device: greedy batches, bounded, fair between lanes; asyncio and the standard library only.

Requests wait in lanes (`classify`, `explain`). Whenever a thread is free it takes at once what waits, up to
`max_batch_size`: batches form by themselves under load and cost no waiting without it. The same class with
`max_batch_size=1` and one thread a core is the pool of the CPU, where batching gains nothing.

Rules, each learnt from a server that lacked it: a batch holds one `key` only; deadlines are checked when work leaves
the queue; cancelled work never runs; the members of a failed batch are run again singly, so that only the culprit
fails; a lost worker fails what waits with a typed error, and is started again.

Source: the request path of huggingface/text-embeddings-inference (permit, queue, batching task, one-shot reply).
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Generic, NamedTuple, TypeVar

from service.errors import DeadlineExceeded, NotReady, Overloaded

P = TypeVar("P")
R = TypeVar("R")

LANES = ("classify", "explain")
TURNS = ("classify", "classify", "explain")
"""Order of the lanes while work waits in both. An explanation is two pieces of work, model and picture, and each may
take as long as a classification: with equal turns saturating `/explain` would more than double the time of
`/classify`."""
RESTART_DELAYS_S = (0.0, 0.1, 0.5, 1.0, 5.0)
"""Pause before the first, second, … restart of a worker that is lost again and again; the last one repeats."""
_SMOOTHING = 0.1
_TOO_LATE = "The deadline passed while the request waited."

logger = logging.getLogger(__name__)


class WorkerLost(Exception):
    """A run failed in a way that no further run survives (a lost GPU): fails the worker, not only the request."""


@dataclass(frozen=True, slots=True)
class Done(Generic[R]):
    """The outcome of one piece of work.

    Attributes:
        result: what the run returned for it.
        queue_s: time it waited, seconds.
        started: of its batch, on `time.monotonic()`'s clock.
        run_s: time its batch ran, seconds.
    """

    result: R
    queue_s: float
    started: float
    run_s: float


@dataclass(eq=False, slots=True)
class _Item(Generic[P, R]):
    """A piece of work that waits; `begun` once a thread has taken it. See `DynamicBatcher.submit`."""

    payload: P
    key: Hashable
    deadline: float | None
    future: "asyncio.Future[Done[R]]"
    since: float = field(default_factory=time.monotonic)
    begun: bool = False


class _Run(NamedTuple, Generic[P, R]):
    """A run as its thread saw it: the items still wanted, their results or the error, start and duration, seconds."""

    items: Sequence[_Item[P, R]]
    results: Sequence[R]
    error: BaseException | None
    started: float
    run_s: float


def call_each(jobs: Sequence[Callable[[], R]]) -> list[R]:
    """Call each job: the `run` of a batcher whose work is a function."""
    return [job() for job in jobs]


class DynamicBatcher(Generic[P, R]):
    """Runs pieces of work in threads of its own, in batches that form greedily.

    A thread takes its batches from one `SimpleQueue` and reports back by one `call_soon_threadsafe`. The executor of
    the standard library makes a future with a lock and a condition for every call and chains asyncio's to it: with it
    the loop's thread took 1.61 ms a request instead of 1.38, the process 29.0 instead of 26.5 (bundled model, C = 8,
    two cores, medians of six interleaved rounds).

    Args:
        run: takes the payloads of one batch, returns their results in order; called in a thread of this batcher.
        name: of the threads, and in the log.
        max_batch_size: most payloads in one call of `run`.
        concurrency: threads, each with one call of `run` at a time.
        ahead: batches queued for the threads beyond those that run: a free thread continues at once, without waiting
            for the event loop.
        max_waiting: most pieces of work that wait; beyond, `submit` raises `Overloaded`.
        max_wait_s: how long a batch that is not full waits for more, seconds.
        on_batch: called with the size of every batch that ran.
        expected_wait_s: returns how long new work would wait, seconds; called when work is refused.
        revive: awaited before a lost worker is started again; raises where that is too early.

    Attributes:
        alive: whether work is accepted: started, and the worker is not lost.
    """

    def __init__(
        self,
        run: Callable[[Sequence[P]], Sequence[R]],
        *,
        name: str = "run",
        max_batch_size: int = 1,
        concurrency: int = 1,
        ahead: int = 0,
        max_waiting: int = 1024,
        max_wait_s: float = 0.0,
        on_batch: Callable[[int], None] | None = None,
        expected_wait_s: Callable[[], float] = float,
        revive: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.alive = False
        self._run = run
        self._name = name
        self._max_batch_size = max_batch_size
        self._concurrency = concurrency
        self._ahead = ahead
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._on_batch = on_batch
        self._expected_wait_s = expected_wait_s
        self._revive = revive
        self._lanes: dict[str, deque[_Item[P, R]]] = {lane: deque() for lane in LANES}
        self._singles: deque[_Item[P, R]] = deque()
        self._turns: deque[str] = deque(TURNS)
        self._batches: SimpleQueue[list[_Item[P, R]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._handed: set[_Item[P, R]] = set()
        self._busy = 0
        self._run_s = 0.0
        self._losses = 0
        self._fill_timer: asyncio.TimerHandle | None = None
        self._restarting: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Pieces of work in the queue, and those queued for a thread that has not begun them."""
        return self._queued + sum(not item.begun and not item.future.done() for item in self._handed)

    @property
    def is_alone(self) -> bool:
        """Whether what runs is all there is."""
        return self._busy <= 1 and not self._queued

    @property
    def _queued(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())

    async def start(self) -> None:
        """Start the threads."""
        self._loop = asyncio.get_running_loop()
        for index in range(self._concurrency):
            thread = threading.Thread(target=self._work, name=f"fieldmark-{self._name}_{index}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self.alive = True

    async def stop(self) -> None:
        """Stop the threads; unanswered work fails as not ready, what runs is waited for."""
        self.alive = False
        self._fail_waiting(NotReady("The service is stopping."))
        _fail(self._handed, NotReady("The service is stopping."))
        if self._restarting is not None:
            self._restarting.cancel()
        for _ in self._threads:
            self._batches.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    async def submit(
        self, payload: P, *, lane: str = "classify", key: Hashable = None, deadline: float | None = None
    ) -> Done[R]:
        """Queue a piece of work and return its outcome.

        Cancelling the caller takes the work out of the queue.

        Args:
            payload: for `run`.
            lane: one of `LANES`; lanes take turns.
            key: only work with equal keys shares a batch.
            deadline: when it must have been started, on `time.monotonic()`'s clock; None: no limit.

        Raises:
            Overloaded: too much waits already.
            NotReady: the worker is lost, or was lost while this waited.
            DeadlineExceeded: the deadline passed in the queue.
            Exception: whatever `run` raised for this payload.
        """
        if not self.alive:
            raise NotReady("The worker is being restarted.")
        if self._queued >= self._max_waiting:
            raise Overloaded("The queue is full.", retry_after_s=1 + int(self._expected_wait_s()))
        item: _Item[P, R] = _Item(payload, key, deadline, self._loop.create_future())
        queue = self._lanes[lane]
        queue.append(item)
        if self._max_wait_s > 0 and self._fill_timer is None:
            self._fill_timer = self._loop.call_later(self._max_wait_s, self._end_filling)
        self._loop.call_soon(self._hand_over)  # after all that is submitted in this turn of the loop
        try:
            return await item.future
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):
                queue.remove(item)
            raise

    # In the event loop: from the lanes to the threads, and back to the callers.

    def _end_filling(self) -> None:
        self._fill_timer = None
        self._hand_over()

    def _hand_over(self) -> None:
        """Queue batches for the threads as long as these have room and work waits."""
        if self._fill_timer is not None and self._queued < self._max_batch_size and not self._singles:
            return
        while self._busy < self._concurrency + self._ahead and (batch := self._take()):
            self._busy += 1
            self._handed.update(batch)
            self._batches.put(batch)
        if self._fill_timer is not None and not self._queued:
            self._fill_timer.cancel()
            self._fill_timer = None

    def _take(self) -> list[_Item[P, R]]:
        """Take a batch out of the lanes in turn: one key, at most `max_batch_size`, only what is still wanted.

        While all threads are busy and no classification waits, explanations stay in their lane: this avoids
        head-of-line blocking of the next classification.
        """
        while self._singles:
            if not (single := self._singles.popleft()).future.done():
                return [single]
        if self._busy >= self._concurrency and not self._lanes[LANES[0]]:
            return []
        batch: list[_Item[P, R]] = []
        empty: set[str] = set()
        while len(batch) < self._max_batch_size and len(empty) < len(LANES):
            lane = self._turns[0]
            self._turns.rotate(-1)
            item = self._next_of(self._lanes[lane], batch[0] if batch else None)
            if item is None:
                empty.add(lane)
            else:
                batch.append(item)
        return batch

    def _next_of(self, queue: deque[_Item[P, R]], like: _Item[P, R] | None) -> _Item[P, R] | None:
        """Remove and return the first wanted item of a lane, with the key of `like`; others keep their places."""
        now = time.monotonic()
        index = 0
        while index < len(queue):
            item = queue[index]
            if item.future.done():
                del queue[index]
            elif item.deadline is not None and now + self._needed_s(queue) >= item.deadline:
                del queue[index]
                item.future.set_exception(DeadlineExceeded(_TOO_LATE))
            elif like is not None and item.key != like.key:
                index += 1
            else:
                del queue[index]
                return item
        return None

    def _needed_s(self, queue: deque[_Item[P, R]]) -> float:
        """Return the expected time of a run, so that none is begun whose answer would be late.

        The last item is always tried: otherwise one slow run would refuse all later ones, and never be corrected.
        """
        if len(queue) <= 1:
            return 0.0
        return self._run_s * (2 if self._ahead else 1)  # what is queued ahead waits for another run

    def _answer(self, batch: list[_Item[P, R]], run: _Run[P, R]) -> None:
        """Give the callers of a batch their results or errors."""
        self._busy -= 1
        self._handed.difference_update(batch)
        error = run.error
        if error is None:
            self._losses = 0
            for item, result in zip(run.items, run.results, strict=True):
                if not item.future.done():
                    item.future.set_result(Done(result, run.started - item.since, run.started, run.run_s))
            if len(run.items) < len(batch):
                _fail(batch, DeadlineExceeded(_TOO_LATE))
            if run.items:
                self._run_s += (run.run_s - self._run_s) * (_SMOOTHING if self._run_s else 1)
                if self._on_batch is not None:
                    self._on_batch(len(run.items))
        elif isinstance(error, WorkerLost) or not isinstance(error, Exception):
            _fail(batch, NotReady("The worker stopped in the middle of this request."))
            self._lose_worker(error)
        elif len(batch) == 1:
            _fail(batch, error)
        else:
            logger.warning("a batch of %d failed, running its members singly: %s", len(batch), error)
            self._singles.extend(batch)
        self._hand_over()

    def _lose_worker(self, error: BaseException) -> None:
        if not self.alive:
            return  # stopped, or being restarted
        self.alive = False
        logger.error("the %s worker died and is started again", self._name, exc_info=error)
        self._fail_waiting(NotReady("The worker stopped; it is being restarted."))
        self._restarting = self._loop.create_task(self._restart())

    async def _restart(self) -> None:
        """Accept work again once `revive` succeeds."""
        while not self.alive:
            await asyncio.sleep(RESTART_DELAYS_S[min(self._losses, len(RESTART_DELAYS_S) - 1)])
            self._losses += 1
            try:
                if self._revive is not None:
                    await self._revive()
                self.alive = True
            except Exception:
                logger.exception("the %s worker cannot be started again yet", self._name)

    def _fail_waiting(self, error: Exception) -> None:
        for queue in (*self._lanes.values(), self._singles):
            _fail(queue, error)
            queue.clear()

    # In the threads.

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            run = self._run_batch(batch)
            with contextlib.suppress(RuntimeError):  # the loop was closed during the run
                self._loop.call_soon_threadsafe(self._answer, batch, run)
            del batch, run  # an idle thread must not hold the last request's photo

    def _run_batch(self, batch: list[_Item[P, R]]) -> _Run[P, R]:
        """Run the items of a batch that are still wanted: they may have waited for this thread."""
        started = time.monotonic()
        for item in batch:
            item.begun = True
        items = [
            item for item in batch if not item.future.done() and (item.deadline is None or started < item.deadline)
        ]
        results: Sequence[R] = ()
        failure: BaseException | None = None
        try:
            results = self._run([item.payload for item in items]) if items else ()
            if len(results) != len(items):
                raise RuntimeError(f"a run of {len(items)} returned {len(results)} results")
        except BaseException as error:  # SystemExit, too: the callers wait for an answer
            failure = error
        return _Run(items, results, failure, started, time.monotonic() - started)


def _fail(items: Iterable[_Item[P, R]], error: Exception) -> None:
    for item in items:
        if not item.future.done():
            item.future.set_exception(error)
