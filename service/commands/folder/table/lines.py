"""A table with a row a line, that grows: a row is in the file, whole, as soon as its photo is done.

A kill loses no row that was written; what it tore is the last line, which has no end and is cut when the table is
opened again. A loss of power may lose the rows since the last `sync`.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from service.commands.folder.sources import digest
from service.commands.folder.table.rows import Lines
from service.errors import InvalidOption
from service.http.answers import Answer


class GrowingTable:
    """A table in a file of this machine.

    Args:
        path: of the file.
        lines: its format.

    Attributes:
        done: digests of the photos that had a row when it was opened.
        rows: in the file.
        bad: those of them with a code.

    Raises:
        InvalidOption: it holds something else.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path, lines: Lines) -> None:
        self._path = path
        self._lines = lines
        self.done: set[bytes] = set()
        self.rows = self.bad = 0
        self._file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)  # noqa: SIM115
        try:
            self._end = self._scan()
            os.truncate(self._file.fileno(), self._end)
            self._file.seek(self._end)
            if not self._end and lines.head:
                self._write(lines.head)
        except BaseException:
            self._file.close()
            raise

    def add(self, rows: Sequence[Answer]) -> None:
        """Write rows; they are in the file when this returns, or none of them is.

        Raises:
            OSError: the disk is full, or gone.
        """
        self._write(b"".join(map(self._lines.write, rows)))
        self.rows += len(rows)
        self.bad += sum("code" in row for row in rows)

    def sync(self) -> None:
        """Make what was written survive a loss of power."""
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Complete the table: all photos are done."""

    def close(self) -> None:
        """Let go of the file."""
        self.sync()
        self._file.close()

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)

    def _scan(self) -> int:
        """Take note of the rows that are there; return where the last whole one ends, bytes."""
        end = 0
        with open(self._path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                if number == 1 and self._lines.head:
                    if line.rstrip(b"\r\n") != self._lines.head.rstrip(b"\n"):
                        raise InvalidOption(f"{self._path} has other columns than this run. Name another file.")
                else:
                    self._take(line, number)
                end += len(line)
        return end

    def _take(self, line: bytes, number: int) -> None:
        try:
            path, is_bad = self._lines.read(line)
        except (ValueError, RecursionError, StopIteration) as error:
            raise InvalidOption(f"{self._path}, line {number}, is no row of this run. Name another file.") from error
        self.done.add(digest(path))
        self.rows += 1
        self.bad += is_bad

    def _write(self, content: bytes) -> None:
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            os.truncate(self._file.fileno(), self._end)
            self._file.seek(self._end)
            error.filename = str(self._path)
            raise
        self._end += len(content)
