"""Keeps the tasks of a queue running: one that dies is logged, and started again after a pause.

asyncio and the standard library only, as the queue itself.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine

RESTART_DELAYS_S = (0.0, 0.1, 0.5, 1.0, 5.0)
"""Pause before the first, second, … restart of a worker that keeps dying; the last one repeats."""

logger = logging.getLogger(__name__)


class Supervisor:
    """A fixed number of workers that never end by themselves.

    Args:
        work: what a worker runs, for ever.
        count: how many.
        name: in the log.
        on_death: called when a worker died, before it is started again.
        revive: awaited before a dead worker is started again; raises where that is too early.

    Attributes:
        alive: whether all workers run.
        deaths: since a worker last got something done, which sets it to 0.
    """

    def __init__(
        self,
        work: Callable[[], Coroutine[None, None, None]],
        count: int,
        name: str,
        on_death: Callable[[], None],
        revive: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.alive = False
        self.deaths = 0
        self._work = work
        self._count = count
        self._name = name
        self._on_death = on_death
        self._revive = revive
        self._workers: set[asyncio.Task[None]] = set()
        self._restarts: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Start the workers."""
        for _ in range(self._count):
            self._start_worker()
        self.alive = True

    async def stop(self) -> None:
        """Cancel the workers and wait for their end."""
        self.alive = False
        tasks = [*self._restarts, *self._workers]
        self._workers.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start_worker(self) -> None:
        task = asyncio.get_running_loop().create_task(self._work(), name=f"{self._name}-worker")
        self._workers.add(task)
        task.add_done_callback(self._worker_ended)

    def _worker_ended(self, task: asyncio.Task[None]) -> None:
        if task not in self._workers:
            return  # stopped on purpose
        self._workers.discard(task)
        self.alive = False
        error = None if task.cancelled() else task.exception()
        logger.error("the %s worker died and is started again", self._name, exc_info=error)
        self._on_death()
        restart = asyncio.get_running_loop().create_task(self._restart())
        self._restarts.add(restart)
        restart.add_done_callback(self._restarts.discard)

    async def _restart(self) -> None:
        while True:
            await asyncio.sleep(RESTART_DELAYS_S[min(self.deaths, len(RESTART_DELAYS_S) - 1)])
            self.deaths += 1
            try:
                if self._revive is not None:
                    await self._revive()
            except Exception:
                logger.exception("the %s worker cannot be started again yet", self._name)
            else:
                break
        self._start_worker()
        self.alive = len(self._workers) == self._count
