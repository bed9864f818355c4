"""The queue in front of a device: greedy batches, bounded, fair between lanes; asyncio and the standard library only.

Requests wait in lanes (`classify`, `explain`). Whenever a run is free it takes at once what waits, up to
`max_batch_size`: batches form by themselves under load and cost no waiting without it. The same class with
`max_batch_size=1` and one run a core is the pool of the CPU, where batching gains nothing.

Rules, each learnt from a server that lacked it: a batch holds one `key` only; deadlines are looked at when work
leaves the queue; cancelled work never runs; a failed batch is run again singly, so that only the culprit fails;
a dead worker fails what waits with a typed error, and is started again.

Source: the request path of huggingface/text-embeddings-inference (permit, queue, batching task, one-shot reply).
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.errors import DeadlineExceeded, NotReady, Overloaded
from service.inference.supervisor import Supervisor

P = TypeVar("P")
R = TypeVar("R")

LANES = ("classify", "explain")
TURNS = ("classify", "classify", "explain")
"""Who is next where both wait. An explanation is two pieces of work, model and picture, and each may last as long as
a classification: with equal turns saturating `/explain` would more than double the time of `/classify`."""
_SMOOTHING = 0.1
_TOO_LATE = "The deadline passed while the request waited."

logger = logging.getLogger(__name__)


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


class _Item(Generic[P, R]):
    """A piece of work that waits."""

    __slots__ = ("begun", "deadline", "future", "key", "payload", "since")

    def __init__(self, payload: P, key: Hashable, deadline: float | None, future: "asyncio.Future[Done[R]]") -> None:
        self.payload = payload
        self.key = key
        self.deadline = deadline
        self.future = future
        self.since = time.monotonic()
        self.begun = False


@dataclass(frozen=True, slots=True)
class _Ran(Generic[P, R]):
    """A run as its thread saw it.

    Attributes:
        items: what was still wanted when its turn came.
        results: theirs.
        started: when.
        run_s: how long it took, seconds.
    """

    items: "Sequence[_Item[P, R]]"
    results: Sequence[R]
    started: float
    run_s: float


def call_each(jobs: Sequence[Callable[[], R]]) -> list[R]:
    """Call each job: the `run` of a batcher whose work is a function."""
    return [job() for job in jobs]


class DynamicBatcher(Generic[P, R]):
    """Runs pieces of work in threads, in batches that form greedily.

    Args:
        run: takes the payloads of one batch, returns their results in order; called in a thread of this batcher.
        name: of the threads, and in the log.
        max_batch_size: most payloads in one call of `run`.
        concurrency: calls of `run` at the same time.
        ahead: batches handed to the threads beyond those that run: a thread that is done goes on at once, instead of
            waiting until the event loop had its turn.
        max_waiting: most pieces of work that wait; beyond, `submit` raises `Overloaded`.
        max_wait_s: how long a batch that is not full waits for more, seconds.
        fatal: exceptions of `run` that end the worker rather than fail the batch.
        on_batch: told the size of every batch that ran.
        expected_wait_s: asked how long new work would wait, seconds, when it is refused.
        revive: awaited before a dead worker is started again.
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
        fatal: tuple[type[BaseException], ...] = (WorkerLost,),
        on_batch: Callable[[int], None] | None = None,
        expected_wait_s: Callable[[], float] = float,
        revive: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._run = run
        self.name = name
        self.max_batch_size = max_batch_size
        self.concurrency = concurrency
        self._ahead = ahead
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._fatal = fatal
        self._on_batch = on_batch
        self._expected_wait_s = expected_wait_s
        self._lanes: dict[str, deque[_Item[P, R]]] = {lane: deque() for lane in LANES}
        self._turns: deque[str] = deque(TURNS)
        self._idle: deque[asyncio.Future[None]] = deque()
        self._threads: ThreadPoolExecutor | None = None
        self._supervisor = Supervisor(self._work, concurrency + ahead, name, self._fail_after_death, revive)
        self._handed: set[_Item[P, R]] = set()
        self._busy = 0
        self._run_s = 0.0

    @property
    def alive(self) -> bool:
        """Whether work is taken: started, and no worker is down."""
        return self._supervisor.alive

    @property
    def waiting(self) -> int:
        """Pieces of work in the queue, and those handed to a thread that has not begun them."""
        return self._queued + sum(not item.begun and not item.future.done() for item in self._handed)

    @property
    def _queued(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())

    @property
    def running(self) -> int:
        """Pieces of work that were handed to the threads and are not done."""
        return len(self._handed)

    async def start(self) -> None:
        """Start the workers."""
        self._threads = ThreadPoolExecutor(self.concurrency, f"fieldmark-{self.name}")
        self._supervisor.start()

    async def stop(self) -> None:
        """Stop the workers; what still waits fails as not ready, what runs is waited for."""
        self._supervisor.alive = False
        self._fail_waiting(NotReady("The service is stopping."))
        await self._supervisor.stop()
        if self._threads is not None:
            await asyncio.to_thread(self._threads.shutdown)

    async def submit(
        self, payload: P, *, lane: str = "classify", key: Hashable = None, deadline: float | None = None
    ) -> Done[R]:
        """Queue a piece of work and return its outcome.

        Cancelling the caller takes the work out of the queue.

        Args:
            payload: handed to `run`.
            lane: whose turn it shares, one of `LANES`.
            key: only work with equal keys shares a batch.
            deadline: when it must have been started, on `time.monotonic()`'s clock; None: whenever.

        Raises:
            Overloaded: too much waits already.
            NotReady: the worker is down, or went down while this waited.
            DeadlineExceeded: the deadline passed in the queue.
            Exception: whatever `run` raised for this payload.
        """
        if not self._supervisor.alive:
            raise NotReady("The worker is being restarted.")
        if self._queued >= self._max_waiting:
            raise Overloaded("The queue is full.", retry_after_s=1 + int(self._expected_wait_s()))
        item: _Item[P, R] = _Item(payload, key, deadline, asyncio.get_running_loop().create_future())
        queue = self._lanes[lane]
        queue.append(item)
        self._wake_one()
        try:
            return await item.future
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):
                queue.remove(item)
            raise

    # One worker: take, run, answer.

    async def _work(self) -> None:
        while True:
            batch = await self._next_batch()
            self._handed.update(batch)
            self._busy += 1
            try:
                await self._answer(batch)
            except BaseException:
                self._supervisor.alive = False
                _fail(batch, NotReady("The worker stopped in the middle of this request."))
                raise
            finally:
                self._busy -= 1
                self._handed.difference_update(batch)

    async def _next_batch(self) -> list[_Item[P, R]]:
        while True:
            if self._max_wait_s > 0 and 0 < self._queued < self.max_batch_size:
                await self._fill()
            if batch := self._take():
                return batch
            await self._sleep()

    async def _fill(self) -> None:
        """Wait until a whole batch waits or the waiting time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._max_wait_s):
                while 0 < self._queued < self.max_batch_size:
                    await self._sleep()

    async def _sleep(self) -> None:
        """Wait until work arrives."""
        woken = asyncio.get_running_loop().create_future()
        self._idle.append(woken)
        try:
            await woken
        except asyncio.CancelledError:
            if woken in self._idle:
                self._idle.remove(woken)
            elif not woken.cancelled():
                self._wake_one()  # the call was meant for a worker that can answer it
            raise

    def _wake_one(self) -> None:
        while self._idle:
            woken = self._idle.popleft()
            if not woken.done():
                woken.set_result(None)
                return

    def _take(self) -> list[_Item[P, R]]:
        """Take a batch out of the lanes in turn: one key, at most `max_batch_size`, only what is still wanted.

        An explanation is not handed over ahead while nobody waits to classify: who comes next would find it in front.
        """
        if self._busy >= self.concurrency and not self._lanes[LANES[0]]:
            return []
        batch: list[_Item[P, R]] = []
        dry: set[str] = set()
        while len(batch) < self.max_batch_size and len(dry) < len(LANES):
            lane = self._turns[0]
            self._turns.rotate(-1)
            item = self._next_of(self._lanes[lane], batch[0].key if batch else None, bool(batch))
            if item is None:
                dry.add(lane)
            else:
                batch.append(item)
        return batch

    def _next_of(self, queue: deque[_Item[P, R]], key: Hashable, match: bool) -> _Item[P, R] | None:
        """Remove and return the first wanted item of a lane, with this key if `match`; others keep their places."""
        now = time.monotonic()
        index = 0
        while index < len(queue):
            item = queue[index]
            if item.future.done():
                del queue[index]
            elif item.deadline is not None and now + self._needed_s(queue) >= item.deadline:
                del queue[index]
                item.future.set_exception(DeadlineExceeded(_TOO_LATE))
            elif match and item.key != key:
                index += 1
            else:
                del queue[index]
                return item
        return None

    def _needed_s(self, queue: deque[_Item[P, R]]) -> float:
        """Return the time that a run takes, so that none is begun whose answer would be late.

        The last one waiting always gets its chance: else one slow run would refuse everybody for ever.
        """
        if len(queue) <= 1:
            return 0.0
        return self._run_s * (2 if self._ahead else 1)  # what is handed over ahead waits for another run

    async def _answer(self, batch: list[_Item[P, R]]) -> None:
        try:
            ran = await self._call(batch)
        except self._fatal:
            raise
        except Exception as error:
            if len(batch) == 1:
                _fail(batch, error)
            else:
                logger.warning("a batch of %d failed, running its members singly: %s", len(batch), error)
                await self._answer_singly(batch)
            return
        if ran.items:
            self._run_s = _smoothed(self._run_s, ran.run_s)
        for item, result in zip(ran.items, ran.results, strict=True):
            if not item.future.done():
                item.future.set_result(Done(result, ran.started - item.since, ran.run_s, len(ran.items)))
        if len(ran.items) < len(batch):
            _fail(batch, DeadlineExceeded(_TOO_LATE))
        self._supervisor.deaths = 0

    async def _answer_singly(self, batch: list[_Item[P, R]]) -> None:
        for item in batch:
            if not item.future.done():
                await self._answer([item])

    async def _call(self, batch: list[_Item[P, R]]) -> _Ran[P, R]:
        """Run a batch in a thread of this batcher."""
        if self._threads is None:
            raise NotReady("The worker has not started.")
        ran = await asyncio.get_running_loop().run_in_executor(self._threads, self._run_guarded, batch)
        if len(ran.results) != len(ran.items):
            raise RuntimeError(f"a run of {len(ran.items)} returned {len(ran.results)} results")
        if self._on_batch is not None and ran.items:
            self._on_batch(len(ran.items))
        return ran

    def _run_guarded(self, batch: list[_Item[P, R]]) -> _Ran[P, R]:
        """Run what is still wanted of a batch, in the thread: it may have waited there for its turn."""
        started = time.monotonic()
        for item in batch:
            item.begun = True
        items = [
            item for item in batch if not item.future.done() and (item.deadline is None or started < item.deadline)
        ]
        if not items:
            return _Ran((), (), started, 0.0)
        try:
            results = self._run([item.payload for item in items])
        except Exception:
            raise
        except BaseException as error:  # SystemExit would end the event loop itself, not only this worker
            raise WorkerLost(f"{type(error).__name__} in a run") from error
        return _Ran(items, results, started, time.monotonic() - started)

    def _fail_after_death(self) -> None:
        self._fail_waiting(NotReady("The worker stopped; it is being restarted."))

    def _fail_waiting(self, error: Exception) -> None:
        for queue in self._lanes.values():
            _fail(queue, error)
            queue.clear()


def _smoothed(old: float, new: float) -> float:
    return new if old == 0 else old + _SMOOTHING * (new - old)


def _fail(items: "Sequence[_Item[P, R]] | deque[_Item[P, R]]", error: Exception) -> None:
    for item in items:
        if not item.future.done():
            item.future.set_exception(error)
