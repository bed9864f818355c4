"""Looks after a cluster while no rows come: whether it has room for a worker, and machines that kill what starts there.

Ray starts killed actors again, those of Ray Data's own that it waits for without end. A task without retries is what
reports such a kill.

Source: https://docs.ray.io/en/latest/ray-core/scheduling/ray-oom-prevention.html.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from service.commands.folder.job import Stop
from service.commands.ray_data.actor import WorkerRefused

_TICK_S = 0.25
_NOTICE_S = 10.0
"""A worker that takes longer to start waits for room, most likely."""
_PATIENCE_S = 600.0
"""How long a machine may take to join a cluster that grows with its work."""
_QUIET_S = 30.0
"""Without rows for so long, a run looks after its machines."""
_LOOK_S = 5.0
"""Some times the interval at which Ray looks after the memory."""
_KILLS = 3


def _stay(seconds: float) -> None:
    time.sleep(seconds)


class Watch:
    """Of one run.

    Args:
        gpus: of each actor.
        may_grow: whether machines may join.
        report: takes a line for the user.
    """

    def __init__(self, gpus: float, may_grow: bool, report: Callable[[str], None]) -> None:
        self._gpus = gpus
        self._patience_s = _PATIENCE_S if may_grow else 0.0
        self._report = report
        self._task: Any = ray.remote(max_retries=0)(_stay)
        self._looking: dict[Any, str] = {}
        self.heard()

    def wait_for_room(self, stop: Stop) -> None:
        """Wait until the cluster has run a task of the size of an actor; others may hold its cores for long.

        Raises:
            WorkerRefused: no machine is so large, or became so.
            OutOfMemoryError: tasks are killed for want of memory.
        """
        what = f"{self._gpus:g} GPU" if self._gpus else "a core for work"
        started, is_reported, kills = time.monotonic(), False, 0
        task = self._start()
        while not stop:
            waited = time.monotonic() - started
            has_place = self._has_place()
            if not has_place and waited >= self._patience_s:
                joined = f" joined in {waited / 60:.0f} minutes" if self._patience_s else ""
                raise WorkerRefused(f"no machine with {what}{joined}")
            if not is_reported and (waited >= _NOTICE_S or not has_place):
                is_reported = True
                self._report(
                    f"no worker has started yet: waiting for {what} that others may hold"
                    if has_place
                    else f"no machine has {what}: waiting at most {self._patience_s / 60:.0f} minutes for one"
                )
            if not ray.wait([task], timeout=_TICK_S)[0]:
                continue
            try:
                ray.get(task)
                return
            except OutOfMemoryError:
                kills += 1
                if kills == _KILLS:
                    raise
                task = self._start()

    def heard(self) -> None:
        """Rows came."""
        self._last = time.monotonic()
        self._kills: Counter[str] = Counter()

    def check(self) -> None:
        """Look after all machines where no rows came for long; to be called now and then.

        Raises:
            OutOfMemoryError: one of them kills what starts there for want of memory.
        """
        if time.monotonic() - self._last < _QUIET_S:
            return
        if self._looking:
            for task in ray.wait([*self._looking], num_returns=len(self._looking), timeout=0)[0]:
                self._look_at(task, self._looking.pop(task))
        for node in {node["NodeID"] for node in _machines()} - {*self._looking.values()}:
            place = NodeAffinitySchedulingStrategy(node, soft=False)
            self._looking[self._task.options(num_cpus=0, scheduling_strategy=place).remote(_LOOK_S)] = node

    def _look_at(self, task: Any, node: str) -> None:
        try:
            ray.get(task)
        except OutOfMemoryError:
            self._kills[node] += 1
            if self._kills[node] == _KILLS:
                raise
        except RayError:
            pass  # a machine that left; its work is done elsewhere

    def _start(self) -> Any:
        return self._task.options(num_cpus=1, num_gpus=self._gpus).remote(0)

    def _has_place(self) -> bool:
        found = [node["Resources"] for node in _machines()]
        return any(each.get("CPU", 0) >= 1 and each.get("GPU", 0) >= self._gpus for each in found)


def _machines() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
