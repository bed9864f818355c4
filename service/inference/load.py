"""Requests in flight and the pace of answering them: the estimate of how long a new request takes."""

import time
from collections.abc import Callable

_MEMORY = 64
"""Requests over which the pace is smoothed."""


class LoadTracker:
    """Counts requests in flight, and measures the pace at which they are answered.

    The pace is capacity used over requests finished: while fewer requests are worked on than the device takes in
    parallel, only their share of it counts. So it is the pace under full load, whatever the load is, but for runs that
    take all cores while they are alone: after many of these it is too fast by their gain, until a burst shows.

    Args:
        parallel: requests that the device works on at the same time.
        clock: monotonic, seconds.

    Attributes:
        requests: admitted and not yet answered.
        bytes: of their bodies.
    """

    def __init__(self, parallel: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.requests = 0
        self.bytes = 0
        self._parallel = parallel
        self._working = 0
        self._clock = clock
        self._accounted = clock()
        self._used_s = 0.0
        self._finished = 0.0

    @property
    def request_s(self) -> float:
        """Time a request takes of the whole device, seconds; 0 before the first was answered."""
        return self._used_s / self._finished if self._finished else 0.0

    def expected_s(self) -> float:
        """Return the time until a new request is answered, seconds."""
        return (self.requests + self._parallel) * self.request_s

    def begin_work(self) -> None:
        """Count a request whose body has arrived as being worked on."""
        self._account()
        self._working += 1

    def end_work(self, *, answered: bool) -> None:
        """Stop counting a request as being worked on; only answered ones count for the pace."""
        self._account()
        self._working -= 1
        if answered:
            self._finished += 1
            if self._finished > _MEMORY:
                self._used_s *= _MEMORY / self._finished
                self._finished = float(_MEMORY)

    def _account(self) -> None:
        now = self._clock()
        self._used_s += (now - self._accounted) * min(self._working, self._parallel) / self._parallel
        self._accounted = now
