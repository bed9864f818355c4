"""The queue, with an engine whose runs end when the test opens a gate: batch shapes are forced, never timed."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from service.errors import DeadlineExceeded, NotReady, Overloaded
from service.inference.batcher import RESTART_DELAYS_S, Done, DynamicBatcher, WorkerLost

pytestmark = pytest.mark.anyio


class GatedEngine:
    """Runs a batch once the test opens the gate, and records payloads and threads."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[Any]] = []
        self.threads: set[int] = set()

    def __call__(self, payloads: Sequence[Any]) -> list[Any]:
        self.threads.add(threading.get_ident())
        self.batches.append(list(payloads))
        self.entered.release()
        assert self.gate.wait(30), "the test never opened the gate"
        if "bad" in payloads:
            raise ValueError("bad")
        if "deadly" in payloads:
            raise WorkerLost("deadly")
        if "exit" in payloads:
            raise SystemExit
        return [f"done {payload}" for payload in payloads]

    async def wait_entered(self) -> None:
        """Wait until a run has begun."""
        await asyncio.to_thread(self.entered.acquire)


async def settle() -> None:
    """Run the event loop until no task can continue."""
    for _ in range(10):
        await asyncio.sleep(0)


class Queue:
    """A started batcher with a gated engine; the first submission occupies its worker."""

    def __init__(self, **options: Any) -> None:
        self.engine = GatedEngine()
        self.batcher: DynamicBatcher[Any, Any] = DynamicBatcher(self.engine, **options)

    async def __aenter__(self) -> "Queue":
        self._limit = asyncio.timeout(30)
        await self._limit.__aenter__()
        await self.batcher.start()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._limit.__aexit__(*error)
        self.engine.gate.set()
        await self.batcher.stop()

    def submit(self, payload: Any, **options: Any) -> "asyncio.Task[Done[Any]]":
        return asyncio.create_task(self.batcher.submit(payload, **options))

    async def occupy(self, **options: Any) -> "asyncio.Task[Done[Any]]":
        task = self.submit("first", **options)
        await self.engine.wait_entered()
        return task


async def test_free_worker_takes_one_at_once() -> None:
    """Without load, work runs at once, in a batch of one."""
    async with Queue(max_batch_size=8) as queue:
        queue.engine.gate.set()
        done = await queue.batcher.submit("a")
        assert "done a" == done.result
        assert [["a"]] == queue.engine.batches


async def test_what_runs_is_alone_until_more_is_in_hand() -> None:
    """Work that runs beside it or waits ends that."""
    async with Queue(concurrency=2) as queue:
        running = await queue.occupy()
        assert queue.batcher.is_alone
        others = queue.submit("beside"), queue.submit("waits")
        await settle()
        assert not queue.batcher.is_alone
        queue.engine.gate.set()
        await asyncio.gather(running, *others)
        assert queue.batcher.is_alone


async def test_an_explanation_ahead_does_not_block_a_classification() -> None:
    """While an explanation runs, further ones stay in their lane, so that a new classification runs first."""
    async with Queue(ahead=1) as queue:
        first = await queue.occupy(lane="explain")
        explanations = [queue.submit(f"explanation {number}", lane="explain") for number in range(2)]
        await settle()
        photo = queue.submit("photo")
        await settle()
        queue.engine.gate.set()
        await asyncio.gather(first, photo, *explanations)
        assert [["first"], ["photo"], ["explanation 0"], ["explanation 1"]] == queue.engine.batches


async def test_batches_ahead_follow_the_turns() -> None:
    """While both lanes have work, batches queued ahead follow the turns."""
    async with Queue(ahead=1) as queue:
        first = await queue.occupy()
        photos = [queue.submit(f"photo {number}") for number in range(9)]
        explanations = [queue.submit(f"explanation {number}", lane="explain") for number in range(2)]
        await settle()
        queue.engine.gate.set()
        await asyncio.gather(first, *photos, *explanations)
        order = [payload for (payload,) in queue.engine.batches]
        assert max(order.index(f"explanation {number}") for number in range(2)) < len(order) - 2, order


async def test_waiting_work_forms_one_batch_greedily() -> None:
    """Work that arrives during a run forms the next batch, up to the largest size."""
    async with Queue(max_batch_size=3) as queue:
        first = await queue.occupy()
        rest = [queue.submit(number) for number in range(5)]
        await settle()
        queue.engine.gate.set()
        await asyncio.gather(first, *rest)
        assert [["first"], [0, 1, 2], [3, 4]] == queue.engine.batches


async def test_work_of_one_turn_of_the_loop_forms_a_batch() -> None:
    """Work that is submitted together runs together, though a thread is free."""
    async with Queue(max_batch_size=3) as queue:
        queue.engine.gate.set()
        await asyncio.gather(*(queue.submit(number) for number in range(4)))
        assert [[0, 1, 2], [3]] == queue.engine.batches


async def test_batch_never_mixes_keys() -> None:
    """Different models, layers or numbers of targets run in separate batches, in the order of arrival."""
    async with Queue(max_batch_size=8) as queue:
        first = await queue.occupy(key="x")
        rest = [queue.submit(f"{key}{number}", key=key) for number, key in enumerate("xyxyz")]
        await settle()
        queue.engine.gate.set()
        await asyncio.gather(first, *rest)
        assert [["first"], ["x0", "x2"], ["y1", "y3"], ["z4"]] == queue.engine.batches


async def test_lanes_take_turns() -> None:
    """Many waiting explanations do not block a classification."""
    async with Queue() as queue:
        first = await queue.occupy()
        explain = [queue.submit(f"e{number}", lane="explain") for number in range(4)]
        classify = [queue.submit(f"c{number}", lane="classify") for number in range(2)]
        await settle()
        queue.engine.gate.set()
        await asyncio.gather(first, *explain, *classify)
        assert [["first"], ["c0"], ["e0"], ["c1"], ["e1"], ["e2"], ["e3"]] == queue.engine.batches


async def test_no_lane_starves() -> None:
    """While both lanes are full, every third run is an explanation."""
    async with Queue() as queue:
        first = await queue.occupy()
        tasks = [queue.submit("c", lane="classify") for _ in range(8)]
        tasks += [queue.submit("e", lane="explain") for _ in range(4)]
        await settle()
        queue.engine.gate.set()
        await asyncio.gather(first, *tasks)
        assert "cecceccecc" == "".join(batch[0] for batch in queue.engine.batches[1:11])


async def test_lanes_share_a_batch() -> None:
    """A batch takes from both lanes in turn, so that neither fills it alone."""
    async with Queue(max_batch_size=4) as queue:
        first = await queue.occupy()
        tasks = [queue.submit(f"e{number}", lane="explain") for number in range(4)]
        tasks += [queue.submit(f"c{number}", lane="classify") for number in range(4)]
        await settle()
        queue.engine.gate.set()
        await asyncio.gather(first, *tasks)
        assert [["c0", "c1", "c2", "e0"], ["c3", "e1", "e2", "e3"]] == [
            sorted(batch) for batch in queue.engine.batches[1:]
        ]


async def test_full_queue_refuses() -> None:
    """Beyond the limit, work is refused at once, with a time to retry."""
    async with Queue(max_waiting=2) as queue:
        first = await queue.occupy()
        rest = [queue.submit(number) for number in range(2)]
        await settle()
        with pytest.raises(Overloaded) as refused:
            await queue.batcher.submit("too much")
        assert refused.value.retry_after_s >= 1
        queue.engine.gate.set()
        await asyncio.gather(first, *rest)


async def test_deadline_counts_when_work_leaves_the_queue() -> None:
    """Work whose deadline passed while it waited fails without running."""
    async with Queue() as queue:
        first = await queue.occupy()
        late = queue.submit("late", deadline=time.monotonic() - 1)
        good = queue.submit("good", deadline=time.monotonic() + 60)
        await settle()
        queue.engine.gate.set()
        with pytest.raises(DeadlineExceeded):
            await late
        assert "done good" == (await good).result
        await first
        assert [["first"], ["good"]] == queue.engine.batches


async def test_run_that_would_end_too_late_is_not_begun() -> None:
    """Work whose answer would be late, by the measured time of a run, is dropped; the last item is always tried."""
    async with Queue() as queue:
        first = await queue.occupy()
        late, last = (queue.submit(name, deadline=time.monotonic() + 600) for name in ("late", "last"))
        await settle()
        queue.batcher._run_s = 1e6
        queue.engine.gate.set()
        answers = await asyncio.gather(first, late, last, return_exceptions=True)
        assert [Done, DeadlineExceeded, Done] == [type(answer) for answer in answers]


async def test_cancelled_work_never_runs() -> None:
    """Work of a client that disconnected leaves the queue at once."""
    async with Queue() as queue:
        first = await queue.occupy()
        gone = queue.submit("gone")
        stays = queue.submit("stays")
        await settle()
        gone.cancel()
        await settle()
        assert 1 == queue.batcher.waiting
        queue.engine.gate.set()
        await asyncio.gather(first, stays)
        assert [["first"], ["stays"]] == queue.engine.batches


async def test_failed_batch_is_run_singly() -> None:
    """If one member makes a batch fail, all others get their answers."""
    async with Queue(max_batch_size=4) as queue:
        first = await queue.occupy()
        tasks = [queue.submit(payload) for payload in ("a", "bad", "b")]
        await settle()
        queue.engine.gate.set()
        answers = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert ["done a", "done b"] == [answers[1].result, answers[3].result]
        assert isinstance(answers[2], ValueError)
        assert [["first"], ["a", "bad", "b"], ["a"], ["bad"], ["b"]] == queue.engine.batches
        assert "done later" == (await queue.batcher.submit("later")).result


async def test_wrong_number_of_results_fails_alone() -> None:
    """A run that returns too few results is an error; no result goes to the wrong caller."""
    batcher: DynamicBatcher[int, int] = DynamicBatcher(lambda payloads: [])
    await batcher.start()
    with pytest.raises(RuntimeError, match="returned 0 results"):
        await batcher.submit(1)
    await batcher.stop()


@pytest.mark.parametrize("payload", ["deadly", "exit"])
async def test_dead_worker_fails_what_waits_and_is_restarted(payload: str) -> None:
    """While a worker is down no work is accepted; waiting work gets a typed error; afterwards work continues."""
    revived, may_revive = [], asyncio.Event()

    async def revive() -> None:
        await may_revive.wait()
        revived.append(True)

    async with Queue(revive=revive) as queue:
        first = await queue.occupy()
        deadly, waiting = queue.submit(payload), queue.submit("waiting")
        await settle()
        queue.engine.gate.set()
        answers = await asyncio.gather(first, deadly, waiting, return_exceptions=True)
        assert ["done first", NotReady, NotReady] == [answers[0].result, *map(type, answers[1:])]
        assert not queue.batcher.alive
        with pytest.raises(NotReady):
            await queue.batcher.submit("while down")
        may_revive.set()
        while not queue.batcher.alive:
            await asyncio.sleep(0)
        assert ([True], "done again") == (revived, (await queue.batcher.submit("again")).result)


async def test_dead_worker_of_a_queue_with_batches_ahead_is_restarted() -> None:
    """A queue with batches ahead accepts work again after each restart."""
    async with Queue(concurrency=2, ahead=1) as queue:
        queue.engine.gate.set()
        for _ in range(2):
            with pytest.raises(NotReady):
                await queue.batcher.submit("deadly")
            while not queue.batcher.alive:
                await asyncio.sleep(0)
        assert "done again" == (await queue.batcher.submit("again")).result


async def test_two_threads_that_lose_the_worker_restart_it_once() -> None:
    """The second loss finds the worker down already."""
    revived = []

    async def revive() -> None:
        revived.append(True)

    async with Queue(concurrency=2, revive=revive) as queue:
        tasks = [queue.submit("deadly") for _ in range(2)]
        for _ in tasks:
            await queue.engine.wait_entered()
        restart = queue.batcher._restart
        both_failed = asyncio.gather(*tasks, return_exceptions=True)

        async def restart_late() -> None:
            await both_failed
            await restart()

        queue.batcher._restart = restart_late  # type: ignore[method-assign]
        queue.engine.gate.set()
        assert [NotReady, NotReady] == [type(error) for error in await both_failed]
        while not queue.batcher.alive:
            await asyncio.sleep(0)
        assert [True] == revived
        assert "done again" == (await queue.batcher.submit("again")).result


async def test_stop_ends_a_restart() -> None:
    """A queue that stops does not come back."""
    async with Queue(revive=asyncio.Event().wait) as queue:
        queue.engine.gate.set()
        with pytest.raises(NotReady):
            await queue.batcher.submit("deadly")
        await settle()
        await queue.batcher.stop()
        await settle()
        assert not queue.batcher.alive
        assert queue.batcher._restarting is not None
        assert queue.batcher._restarting.cancelled()


async def test_worker_that_cannot_be_revived_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed restart is repeated until it succeeds."""
    monkeypatch.setattr("service.inference.batcher.RESTART_DELAYS_S", (0.0,) * len(RESTART_DELAYS_S))

    tries = []

    async def revive() -> None:
        tries.append(True)
        if len(tries) < 3:
            raise RuntimeError("not yet")

    async with Queue(revive=revive) as queue:
        queue.engine.gate.set()
        with pytest.raises(NotReady):
            await queue.batcher.submit("deadly")
        while not queue.batcher.alive:
            await asyncio.sleep(0)
        assert 3 == len(tries)


async def test_stop_fails_what_waits() -> None:
    """A queue that stops fails all unanswered work."""
    async with Queue() as queue:
        first = await queue.occupy()
        waiting = queue.submit("waiting")
        await settle()
        stopping = asyncio.create_task(queue.batcher.stop())
        with pytest.raises(NotReady):
            await waiting
        with pytest.raises(NotReady):
            await first
        queue.engine.gate.set()
        await stopping


async def test_runs_leave_the_loops_thread_and_share_the_cores() -> None:
    """There are `concurrency` runs at the same time, none of them in the event loop's thread."""
    async with Queue(concurrency=3) as queue:
        tasks = [queue.submit(number) for number in range(3)]
        for _ in tasks:
            await queue.engine.wait_entered()
        queue.engine.gate.set()
        await asyncio.gather(*tasks)
        assert 3 == len(queue.engine.threads)
        assert threading.get_ident() not in queue.engine.threads


async def test_waiting_time_fills_a_batch() -> None:
    """With a waiting time, a run begins as soon as its batch is full."""
    async with Queue(max_batch_size=2, max_wait_s=60) as queue:
        queue.engine.gate.set()
        await asyncio.gather(queue.submit("a"), queue.submit("b"))
        assert [["a", "b"]] == queue.engine.batches


async def test_waiting_time_holds_back_a_batch_that_is_not_full() -> None:
    """Behind a run, work that came since waits for its own time; with a full batch it runs at once."""
    async with Queue(max_batch_size=2, max_wait_s=60) as queue:
        first, second = queue.submit("first"), queue.submit("second")
        await queue.engine.wait_entered()
        third = queue.submit("third")
        queue.engine.gate.set()
        await asyncio.gather(first, second)
        await settle()
        assert [["first", "second"]] == queue.engine.batches
        await asyncio.gather(third, queue.submit("fourth"))
        assert [["first", "second"], ["third", "fourth"]] == queue.engine.batches


async def test_waiting_time_ends() -> None:
    """A batch that does not fill runs when the waiting time is over."""
    async with Queue(max_batch_size=2, max_wait_s=0.001) as queue:
        queue.engine.gate.set()
        assert "done a" == (await queue.batcher.submit("a")).result


async def test_full_queue_sets_retry_after() -> None:
    """A full queue refuses work with the expected wait as `Retry-After`."""
    async with Queue(max_waiting=1, expected_wait_s=lambda: 3.7) as queue:
        running, waiting = await queue.occupy(), queue.submit("a")
        await settle()
        with pytest.raises(Overloaded) as refusal:
            await queue.batcher.submit("b")
        assert "4" == refusal.value.headers["Retry-After"]
        queue.engine.gate.set()
        await asyncio.gather(running, waiting)
