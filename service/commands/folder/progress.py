"""How far a long command is: on a terminal a line that is written over, elsewhere a line a minute."""

import sys
import time
from collections import deque

_TERMINAL_S, _ELSEWHERE_S = 0.5, 60.0
_RECENT_S = 30.0
"""The rate is of so long a time: photos differ in size, and other work comes and goes."""


class Progress:
    """Writes to the standard error; the results keep the standard output.

    Attributes:
        total: photos of this run and before; None until they are counted.
        done: of them.
        bad: of those.
        skipped: files that turned out to be no photos.
    """

    def __init__(self) -> None:
        self.total: int | None = None
        self.done = self.bad = self.skipped = 0
        self._on_terminal = sys.stderr.isatty()
        self._next = time.monotonic() + (_TERMINAL_S if self._on_terminal else _ELSEWHERE_S)
        self._recent: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._resumed = 0

    def resume(self) -> None:
        """Count a photo that an earlier run did."""
        self.done += 1
        self._resumed += 1

    def step(self, *, is_bad: bool) -> None:
        """Count a photo."""
        self.done += 1
        self.bad += is_bad

    def show(self) -> None:
        """Write the line, if it is time."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (_TERMINAL_S if self._on_terminal else _ELSEWHERE_S)
        self._recent.append((now, self.done - self._resumed))
        while len(self._recent) > 2 and now - self._recent[0][0] > _RECENT_S:
            self._recent.popleft()
        (then, before), (last, count) = self._recent[0], self._recent[-1]
        line = progress_line(self.done, self.total, self.bad, self.skipped, (count - before) / max(last - then, 1e-9))
        self._write(f"\r{line}\x1b[K" if self._on_terminal else f"{line}\n")

    def end(self) -> None:
        """Clear the line."""
        if self._on_terminal:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def progress_line(done: int, total: int | None, bad: int, skipped: int, rate: float) -> str:
    """Return how far it is, for people.

    Args:
        done: photos.
        total: photos and files that may be some; None where not counted yet.
        bad: photos without an answer.
        skipped: files that are no photos.
        rate: photos a second.
    """
    left = None if total is None else max(total - skipped - done, 0)
    parts = [
        f"{done:,} photos" if left is None else f"{done:,} of {done + left:,} photos",
        f"{bad:,} bad" if bad else "",
        f"{rate:,.1f}/s" if rate < 10 else f"{rate:,.0f}/s",
        f"{_time(left / rate)} left" if left and rate > 0 else "",
    ]
    return ", ".join(filter(None, parts))


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
