"""What users say of answers, appended to a bounded file of JSON lines beside what was answered; never the photo.

A client names an answer by its request id alone. What the service had answered is remembered here, so that no line
depends on what a client claims.
"""

import asyncio
import errno
import logging
import os
import stat
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic_core import to_json

from model.contract.manifest import Manifest
from service.errors import FeedbackUnavailable, UnknownRequest

REMEMBERED = 4096
"""Answers that feedback can be given to: the newest ones, an answer for each image."""
MOST_WAITING = 16
"""Lines that may wait for the disk: a disk that hangs must not collect requests."""

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT
# A pipe must not hold up the start; Windows would write other line ends.
_FLAGS |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_LOG = logging.getLogger("fieldmark.service")


@dataclass(frozen=True, slots=True)
class Answered:
    """What was answered for an image.

    Attributes:
        label: the likeliest class.
        known: whether the image was like photos of some class; this and `novelty` None where the model has none.
        novelty: share of held-out photos that are less novel.
        name: of the model, which its manifest need not have.
        version: of the model.
        sha256: of its file.
        manifest: of the model.
    """

    label: str
    known: bool | None
    novelty: float | None
    name: str
    version: str
    sha256: str
    manifest: Manifest


class Feedback:
    """Remembers the newest answers, and appends what users say of them to a file.

    Several processes may append to one file. A line that a full disk or a crash has cut is closed by the next one, and
    `fieldmark-train evaluate --feedback` leaves it out.

    Args:
        path: of the file; it is opened for every line, so that it can be moved away while the service runs.
        max_bytes: of the file.

    Raises:
        OSError: the file cannot be written, or is a pipe; raised here so that a start with a typo fails.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._answers: OrderedDict[tuple[str, int], Answered] = OrderedDict()
        # A thread of its own: a slow disk holds up feedback alone, and one thread needs no lock.
        self._thread = ThreadPoolExecutor(1, "feedback")
        self._waiting = 0
        self._works = True
        descriptor = os.open(path, _FLAGS, 0o600)
        is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
        os.close(descriptor)
        if is_pipe:
            raise OSError(errno.EINVAL, "Feedback needs a file, not a pipe", str(path))

    def remember(self, request_id: str, image: int, answered: Answered) -> None:
        """Keep what was answered, in place of the oldest answer where there are many.

        Args:
            request_id: of the request.
            image: its place in the request, from 0.
            answered: about it.
        """
        key = request_id, image
        self._answers[key] = answered
        self._answers.move_to_end(key)
        if len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)

    def answer(self, request_id: str, image: int) -> Answered:
        """Return what was answered.

        Raises:
            UnknownRequest: nothing under this id, or too long ago.
        """
        answered = self._answers.get((request_id, image))
        if answered is None:
            raise UnknownRequest()
        return answered

    async def append(self, request_id: str, image: int, label: str | None, answered: Answered) -> None:
        """Append a line.

        Args:
            request_id: of the answer.
            image: its place in the request, from 0.
            label: of the class that the user names; None for none of the classes.
            answered: what the service had answered.

        Raises:
            FeedbackUnavailable: the file is full or cannot be written.
        """
        if self._waiting >= MOST_WAITING:
            raise FeedbackUnavailable()
        line = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "request_id": request_id,
            "image": image,
            "label": label,
            "predicted": answered.label,
            "known": answered.known,
            "novelty": None if answered.novelty is None else round(answered.novelty, 3),
            "model": answered.name,
            "version": answered.version,
            "sha256": answered.sha256,
        }
        self._waiting += 1
        written = asyncio.get_running_loop().run_in_executor(self._thread, self._write, to_json(line) + b"\n")
        written.add_done_callback(self._count_written)
        await written

    def _count_written(self, _: "asyncio.Future[None]") -> None:
        self._waiting -= 1

    def _write(self, line: bytes) -> None:
        try:
            reason = self._try(line)
        except OSError as error:
            reason = error.strerror or str(error)
        if reason and self._works:
            _LOG.error("feedback cannot be written: %s", reason)
        self._works = not reason
        if reason:
            raise FeedbackUnavailable()

    def _try(self, line: bytes) -> str:
        """Append a line in one write; return what prevents it, empty for nothing."""
        descriptor = os.open(self._path, _FLAGS, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size:
                os.lseek(descriptor, -1, os.SEEK_END)  # what is written goes to the end all the same
                if os.read(descriptor, 1) != b"\n":
                    line = b"\n" + line
            if size + len(line) > self._max_bytes:
                return "the file has reached FIELDMARK_MAX_FEEDBACK_BYTES; move it away"
            return "" if os.write(descriptor, line) == len(line) else "the disk is full"
        finally:
            os.close(descriptor)
