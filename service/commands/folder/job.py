"""The run over many photos: read, answer, write; as many at once as keep every core or the GPU's batches full.

Each photo goes through `Predictor`, as a request of the service does. Rows are written in the order of the photos, so
that two runs give the same file; a photo that takes long holds back a bounded number of rows behind it.
"""

import asyncio
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from service.commands.folder.progress import Progress
from service.commands.folder.reading import Read, Reader
from service.commands.folder.sources import Photo
from service.commands.folder.table.columns import problem_row
from service.commands.folder.table.opening import Table
from service.errors import FieldmarkError, InternalError, NotReady, Overloaded
from service.http.answers import Answer

_ROWS_BEHIND = 64
"""Rows that wait for one before them."""
_SYNC_S = 10.0
_RETRIES = 60
"""Seconds to wait for a lost GPU; the service restarts its worker by itself."""

Answering = Callable[[Photo, bytes], Awaitable[Answer]]


class Stop:
    """Whether a signal asked to stop; a second one ends the process at once.

    Attributes:
        signal: that came; 0 for none.
    """

    def __init__(self) -> None:
        self.signal = 0

    def __bool__(self) -> bool:
        return bool(self.signal)

    @contextmanager
    def heard(self) -> Iterator["Stop"]:
        """Listen to Ctrl-C and to the signal of a machine that shuts down."""
        before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)


class Job:
    """One run.

    Args:
        reader: of the photos.
        table: where their rows go.
        answer: gives a photo's row; raises `FieldmarkError` where it cannot.
        at_once: photos that are answered at the same time.
        progress: is kept up to date and shown.
        stop: ends the run after the photos in hand.
    """

    def __init__(
        self, reader: Reader, table: Table, answer: Answering, at_once: int, progress: Progress, stop: Stop
    ) -> None:
        self._reader = reader
        self._table = table
        self._answer = answer
        self._at_once = at_once
        self._progress = progress
        self._stop = stop
        self._waiting: deque[asyncio.Task[Answer]] = deque()
        self._active = 0
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None

    async def run(self) -> None:
        """Take all photos, or those in hand when a signal comes.

        Raises:
            OSError: the table cannot be written any more; what it has is whole.
            NotReady: the GPU was lost and did not come back.
        """
        ticking = asyncio.ensure_future(self._tick())
        try:
            async for chunk in self._reader.chunks(lambda: bool(self._stop)):
                for read in chunk:
                    await self._room()
                    if self._stop:
                        break
                    self._active += 1
                    task = asyncio.ensure_future(self._row(read))
                    self._waiting.append(task)
                    task.add_done_callback(self._write)
            while self._waiting and self._failure is None:
                await self._change()
            if self._failure is not None:
                raise self._failure
            self._table.sync()
        finally:
            ticking.cancel()
            for task in self._waiting:
                task.cancel()
            await asyncio.gather(*self._waiting, ticking, return_exceptions=True)
            self._reader.close()

    async def _room(self) -> None:
        """Wait until another photo may begin."""
        while self._active >= self._at_once or len(self._waiting) >= self._at_once + _ROWS_BEHIND:
            if self._failure is not None:
                break
            await self._change()
        if self._failure is not None:
            raise self._failure

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _row(self, read: Read) -> Answer:
        """Return a photo's row: its answer, or the code of its problem."""
        photo, data = read.photo, read.data
        try:
            if isinstance(data, FieldmarkError):
                raise data
            return {**await self._patiently(photo, data), **read.facts}
        except (NotReady, Overloaded):
            raise
        except FieldmarkError as error:
            return problem_row(photo.name, error.code, error.detail)
        except OSError:
            raise
        except Exception:  # whatever it is, the other photos go on
            return problem_row(photo.name, InternalError.code, InternalError.title)
        finally:
            self._active -= 1

    async def _patiently(self, photo: Photo, data: bytes) -> Answer:
        """Answer a photo, waiting for a worker that is being restarted: that is not the photo's fault."""
        for _ in range(_RETRIES):
            try:
                return await self._answer(photo, data)
            except (NotReady, Overloaded):
                await asyncio.sleep(1)
        return await self._answer(photo, data)

    def _write(self, task: "asyncio.Task[Answer]") -> None:
        """Write the rows that have none before them."""
        rows = []
        try:
            while self._waiting and self._waiting[0].done() and self._failure is None:
                if self._waiting[0].cancelled():
                    break
                row = self._waiting[0].result()
                self._waiting.popleft()
                rows.append(row)
        except BaseException as error:
            self._failure = error
        if rows:
            try:
                self._table.add(rows)
                for row in rows:
                    self._progress.step(is_bad="code" in row)
            except BaseException as error:
                self._failure = self._failure or error
        self._changed.set()

    async def _tick(self) -> None:
        """Show the progress, and bring the table to the disk from time to time."""
        loop = asyncio.get_running_loop()
        synced = loop.time()
        while True:
            await asyncio.sleep(0.25)
            self._progress.show()
            if loop.time() - synced >= _SYNC_S and self._failure is None:
                try:
                    self._table.sync()
                except OSError as error:
                    self._failure = error
                    self._changed.set()
                synced = loop.time()
