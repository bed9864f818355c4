"""A table of finished parts, joined at the end: for formats and places where a file cannot grow.

A Parquet file cannot be read before its footer, which comes last; an object of a store cannot be added to. So rows are
written as parts beside the table, `TABLE.parts/000000`, each whole or not there. After a kill they count as done, and
what was not in a part is done again. At the end the table, as it was, and all parts become the new table, in one
step; parts that a kill left behind after that are known by their first row, which the table has already.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import IO, Protocol

from service.commands.folder.sources import digest
from service.commands.folder.table.rows import Lines
from service.commands.folder.table.stores import Store
from service.errors import InvalidOption
from service.http.answers import Answer

_ROWS = 1000
"""Of a part; one that is not full is written when the table is brought to the disk."""

Opener = Callable[[], IO[bytes]]


class Format(Protocol):
    """How parts and the whole table are written."""

    def part(self, rows: Sequence[Answer]) -> bytes:
        """Return the content of a part."""

    def read(self, file: IO[bytes]) -> Iterator[tuple[str, bool]]:
        """Yield path of every row of a part or a table, and whether the photo was bad.

        Raises:
            ValueError: it is something else.
        """

    def join(self, files: Sequence[Opener], out: IO[bytes]) -> None:
        """Write a table of the rows of a table and of parts."""


class PartedTable:
    """A table in parts; see `opening.Table`.

    Args:
        store: where.
        name: of the table there.
        format_: of table and parts.

    Raises:
        InvalidOption: what is there is no table of this run.
    """

    def __init__(self, store: Store, name: str, format_: Format) -> None:
        self._store = store
        self._name = name
        self._folder = f"{name}.parts"
        self._format = format_
        self._held: list[Answer] = []
        self._parts: list[str] = []
        self.done: set[bytes] = set()
        self.rows = self.bad = 0
        if store.exists(name):
            self._take(self._read(name))
        self._next = 0
        for part in store.names(self._folder):
            rows = self._read(f"{self._folder}/{part}")
            if rows and digest(rows[0][0]) in self.done:
                store.remove(f"{self._folder}/{part}")  # joined before a kill
                continue
            self._parts.append(part)
            self._take(rows)
            self._next = int(part) + 1

    def add(self, rows: Sequence[Answer]) -> None:
        """Take rows; they are in a part at the latest when the table is brought to the disk."""
        self._held += rows
        if len(self._held) >= _ROWS:
            self.sync()

    def sync(self) -> None:
        """Write the rows that are held as a part."""
        if not self._held:
            return
        part = f"{self._next:06}"
        with self._store.replacing(f"{self._folder}/{part}") as file:
            file.write(self._format.part(self._held))
        self._parts.append(part)
        self._next += 1
        self.rows += len(self._held)
        self.bad += sum("code" in row for row in self._held)
        self._held = []

    def finish(self) -> None:
        """Join the parts."""
        self.sync()
        if self._parts:
            names = [self._name] if self._store.exists(self._name) else []
            names += [f"{self._folder}/{part}" for part in self._parts]
            openers = [lambda name=name: self._store.read(name) for name in names]
            with self._store.replacing(self._name) as file:
                self._format.join(openers, file)
            for part in self._parts:
                self._store.remove(f"{self._folder}/{part}")
            self._parts = []
        self._store.remove(self._folder)

    def close(self) -> None:
        """Nothing is open."""

    def remove(self) -> None:
        """Delete the folder of the parts."""
        self._store.remove(self._folder)

    def _read(self, name: str) -> list[tuple[str, bool]]:
        try:
            with self._store.read(name) as file:
                return list(self._format.read(file))
        except ValueError as error:
            raise InvalidOption(f"{name} is no table of this run. Name another file.") from error

    def _take(self, rows: Sequence[tuple[str, bool]]) -> None:
        self.done.update(digest(path) for path, _ in rows)
        self.rows += len(rows)
        self.bad += sum(is_bad for _, is_bad in rows)


class PartsOfLines:
    """A format with a row a line, in parts.

    Args:
        lines: the format.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def part(self, rows: Sequence[Answer]) -> bytes:
        """Return the content of a part."""
        return self._lines.head + b"".join(map(self._lines.write, rows))

    def read(self, file: IO[bytes]) -> Iterator[tuple[str, bool]]:
        """Yield path of every row, and whether the photo was bad."""
        if file.read(len(self._lines.head)) != self._lines.head:
            raise ValueError("other columns")
        yield from map(self._lines.read, file)

    def join(self, files: Sequence[Opener], out: IO[bytes]) -> None:
        """Write a table of the rows of a table and of parts."""
        out.write(self._lines.head)
        for opened in files:
            with opened() as file:
                file.read(len(self._lines.head))
                for line in file:
                    out.write(line)
