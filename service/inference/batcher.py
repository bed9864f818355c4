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
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from queue import SimpleQueue
from typing import Generic, TypeVar

from service.errors import DeadlineExceeded, NotReady, Overloaded
from service.inference.supervisor import Supervisor
from service.inference.work import Done, Item, Ran, WorkerLost

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")

LANES = ("classify", "explain")
TURNS = ("classify", "classify", "explain")
"""Who is next where both wait. An explanation is two pieces of work, model and picture, and each may last as long as
a classification: with equal turns saturating `/explain` would more than double the time of `/classify`."""
_SMOOTHING = 0.1
_TOO_LATE = "The deadline passed while the request waited."

logger = logging.getLogger(__name__)


class _Threads(Generic[A, B]):
    """A fixed number of threads that call one function; calls beyond their number wait for the next free thread.

    The standard library's executor makes a future with a lock and a condition of its own for every call, and chains
    asyncio's to it. With it the loop's thread took 1.61 ms a request instead of 1.38, the process 29.0 instead of 26.5
    (bundled model, C = 8, two cores, medians of six interleaved rounds).

    Args:
        func: called in the threads with what `run` is given.
        num_threads: how many.
        name: of the threads.
    """

    def __init__(self, func: Callable[[A], B], num_threads: int, name: str) -> None:
        self._func = func
        self._loop = asyncio.get_running_loop()
        self._calls: SimpleQueue[tuple[A, asyncio.Future[B]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}_{index}", daemon=True) for index in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, argument: A) -> "asyncio.Future[B]":
        """Call the function in the next free thread; a call cannot be taken back, only its result ignored."""
        future: asyncio.Future[B] = self._loop.create_future()
        self._calls.put((argument, future))
        return future

    def shutdown(self) -> None:
        """Wait for the calls so far, and end the threads."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            argument, future = call
            try:
                result = self._func(argument)
            except BaseException as error:  # whatever it is, somebody waits for it
                self._tell(_set_exception, future, error)
            else:
                self._tell(_set_result, future, result)
                del result
            del call, argument, future  # an idle thread must not hold the last request's photo

    def _tell(self, func: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed over a running call
            self._loop.call_soon_threadsafe(func, *args)


def _set_result(future: "asyncio.Future[T]", result: T) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: "asyncio.Future[T]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


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
        self._lanes: dict[str, deque[Item[P, R]]] = {lane: deque() for lane in LANES}
        self._turns: deque[str] = deque(TURNS)
        self._idle: deque[asyncio.Future[None]] = deque()
        self._threads: _Threads[list[Item[P, R]], Ran[P, R]] | None = None
        self._supervisor = Supervisor(self._work, concurrency + ahead, name, self._fail_after_death, revive)
        self._handed: set[Item[P, R]] = set()
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
        self._threads = _Threads(self._run_guarded, self.concurrency, f"fieldmark-{self.name}")
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
        item: Item[P, R] = Item(payload, key, deadline, asyncio.get_running_loop().create_future())
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

    async def _next_batch(self) -> list[Item[P, R]]:
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

    def _take(self) -> list[Item[P, R]]:
        """Take a batch out of the lanes in turn: one key, at most `max_batch_size`, only what is still wanted.

        An explanation is not handed over ahead while nobody waits to classify: who comes next would find it in front.
        """
        if self._busy >= self.concurrency and not self._lanes[LANES[0]]:
            return []
        batch: list[Item[P, R]] = []
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

    def _next_of(self, queue: deque[Item[P, R]], key: Hashable, match: bool) -> Item[P, R] | None:
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

    def _needed_s(self, queue: deque[Item[P, R]]) -> float:
        """Return the time that a run takes, so that none is begun whose answer would be late.

        The last one waiting always gets its chance: else one slow run would refuse everybody for ever.
        """
        if len(queue) <= 1:
            return 0.0
        return self._run_s * (2 if self._ahead else 1)  # what is handed over ahead waits for another run

    async def _answer(self, batch: list[Item[P, R]]) -> None:
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

    async def _answer_singly(self, batch: list[Item[P, R]]) -> None:
        for item in batch:
            if not item.future.done():
                await self._answer([item])

    async def _call(self, batch: list[Item[P, R]]) -> Ran[P, R]:
        """Run a batch in a thread of this batcher."""
        if self._threads is None:
            raise NotReady("The worker has not started.")
        ran = await self._threads.run(batch)
        if len(ran.results) != len(ran.items):
            raise RuntimeError(f"a run of {len(ran.items)} returned {len(ran.results)} results")
        if self._on_batch is not None and ran.items:
            self._on_batch(len(ran.items))
        return ran

    def _run_guarded(self, batch: list[Item[P, R]]) -> Ran[P, R]:
        """Run what is still wanted of a batch, in the thread: it may have waited there for its turn."""
        started = time.monotonic()
        for item in batch:
            item.begun = True
        items = [
            item for item in batch if not item.future.done() and (item.deadline is None or started < item.deadline)
        ]
        if not items:
            return Ran((), (), started, 0.0)
        try:
            results = self._run([item.payload for item in items])
        except Exception:
            raise
        except BaseException as error:  # SystemExit would end the event loop itself, not only this worker
            raise WorkerLost(f"{type(error).__name__} in a run") from error
        return Ran(items, results, started, time.monotonic() - started)

    def _fail_after_death(self) -> None:
        self._fail_waiting(NotReady("The worker stopped; it is being restarted."))

    def _fail_waiting(self, error: Exception) -> None:
        for queue in self._lanes.values():
            _fail(queue, error)
            queue.clear()


def _smoothed(old: float, new: float) -> float:
    return new if old == 0 else old + _SMOOTHING * (new - old)


def _fail(items: "Sequence[Item[P, R]] | deque[Item[P, R]]", error: Exception) -> None:
    for item in items:
        if not item.future.done():
            item.future.set_exception(error)
