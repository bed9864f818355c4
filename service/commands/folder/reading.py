"""Photos read ahead, in threads: a few at a time, so that handing them over costs little of the cores that decode."""

import asyncio
from collections.abc import AsyncIterator, Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO

from model.photo.formats import sniff
from service.commands.folder.progress import Progress
from service.commands.folder.sources import Photo, digest, open_regular
from service.errors import EmptyInput, FieldmarkError, MalformedRequest, TooLarge
from service.http.answers import Answer

_AT_ONCE, _BYTES_AT_ONCE = 8, 8 << 20
_HEAD_BYTES = 256
"""Enough to recognise any format."""
_REMOTE_THREADS = 16
"""Of an address each read waits for an answer; they wait together."""


@dataclass(frozen=True, slots=True)
class Read:
    """A photo that was read.

    Attributes:
        photo: which.
        data: its bytes; or why there are none.
        facts: further members of its row.
    """

    photo: Photo
    data: bytes | FieldmarkError
    facts: Answer = field(default_factory=dict)


class Reader:
    """Reads the photos that have no row yet.

    Args:
        photos: all of them.
        done: digests of those that have a row.
        max_bytes: of one file.
        progress: counts what is done already, and what is no photo.
        facts: returns further members of a photo's row, from its bytes.
    """

    def __init__(
        self,
        photos: Iterator[Photo],
        done: Container[bytes],
        max_bytes: int,
        progress: Progress,
        facts: Callable[[bytes], Answer] | None = None,
    ) -> None:
        self._facts = facts
        self._photos = photos
        self._done = done
        self._max_bytes = max_bytes
        self._progress = progress
        self._one = ThreadPoolExecutor(1, "fieldmark-read")
        self._remote = ThreadPoolExecutor(_REMOTE_THREADS, "fieldmark-fetch")

    async def chunks(self, is_stopped: Callable[[], bool]) -> AsyncIterator[list[Read]]:
        """Yield photos in their order, a few at a time; the next ones are read meanwhile."""
        loop = asyncio.get_running_loop()
        ahead = loop.run_in_executor(self._one, self._next)
        while (chunk := await ahead) is not None and not is_stopped():
            ahead = loop.run_in_executor(self._one, self._next)
            yield chunk

    def close(self) -> None:
        """Stop; a read that hangs is not waited for."""
        self._one.shutdown(wait=False, cancel_futures=True)
        self._remote.shutdown(wait=False, cancel_futures=True)

    def _next(self) -> list[Read] | None:
        """Return the next photos, maybe none of what was looked at; None at the end."""
        chunk: list[Read] = []
        remote: list[Photo] = []
        total = 0
        for photo in self._photos:
            if digest(photo.name) in self._done:
                self._progress.resume()
                continue
            if photo.system is not None:
                remote.append(photo)
                if len(remote) == _REMOTE_THREADS:
                    break
                continue
            read = self._read(photo)
            chunk += read
            total += sum(len(one.data) for one in read if isinstance(one.data, bytes))
            if len(chunk) >= _AT_ONCE or total >= _BYTES_AT_ONCE:
                break
        else:
            if not chunk and not remote:
                return None
        return chunk + [read for found in self._remote.map(self._read, remote) for read in found]

    def _read(self, photo: Photo) -> list[Read]:
        """Return a photo with its bytes; nothing for a file that is no photo."""
        data: bytes | FieldmarkError
        try:
            with _open(photo) as file:
                head = file.read(_HEAD_BYTES)
                if not (photo.is_named or photo.has_suffix or sniff(head)):
                    self._progress.skipped += 1
                    return []
                data = head + _rest(file, self._max_bytes + 1 - len(head))
        except (OSError, ValueError) as error:
            if not (photo.is_named or photo.has_suffix):
                self._progress.skipped += 1
                return []
            return [Read(photo, MalformedRequest(f"{getattr(error, 'strerror', None) or error}."))]
        if len(data) > self._max_bytes:
            return [Read(photo, TooLarge(f"The file has more than {self._max_bytes >> 20:,} MiB."))]
        if not data:
            return [Read(photo, EmptyInput("The file is empty."))]
        return [Read(photo, data, self._facts(data) if self._facts else {})]


def is_readable(photo: Photo) -> bool:
    """Return whether a photo's file can be read here."""
    try:
        with _open(photo) as file:
            file.read(1)
    except (OSError, ValueError):
        return False
    return True


def _open(photo: Photo) -> IO[bytes]:
    """Open a photo's file.

    Raises:
        OSError: it cannot be read; likewise ValueError.
    """
    opened: IO[bytes] = photo.system.open(photo.path, "rb") if photo.system else open_regular(photo.path)
    return opened


def _rest(file: IO[bytes], most: int) -> bytes:
    """Return the rest of a file, at most so many bytes; a plain file's read may return fewer."""
    parts = []
    while most > 0 and (part := file.read(most)):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)
