"""A table that stays in parts: a folder of Parquet files, as every engine for large tables reads and writes it.

Rows come as Arrow's tables, from several machines. One process writes them, so that no row is written twice whatever
happens to the others. Each file is whole or not there; what was not in one is done again.
"""

import re
from typing import Any

from service.commands.folder.sources import digest
from service.commands.folder.table.columns import CODE
from service.commands.folder.table.parquet import Parquet
from service.commands.folder.table.stores import Store
from service.errors import InvalidOption

_FILE = re.compile(r"part-(\d{6,})\.parquet")
_ROWS = 1_000_000
"""Of a file, at most about."""


class TableOfFiles:
    """A folder of Parquet files; see `opening.Table`.

    Args:
        store: where.
        name: of the folder there.
        format_: of the files.

    Raises:
        InvalidOption: a file is not of this run.
    """

    def __init__(self, store: Store, name: str, format_: Parquet) -> None:
        self._store = store
        self._name = name
        self._format = format_
        self._held: list[Any] = []
        self._next = 0
        self.done: set[bytes] = set()
        self.rows = self.bad = 0
        for found in filter(None, map(_FILE.fullmatch, store.names(name))):
            self._take(found[0])
            self._next = max(self._next, int(found[1]) + 1)

    def add(self, rows: Any) -> None:
        """Take rows, a table of Arrow; they are in a file at the latest when the table is brought to the disk."""
        if rows.num_rows:
            self._held.append(rows)
        if sum(table.num_rows for table in self._held) >= _ROWS:
            self.sync()

    def sync(self) -> None:
        """Write the rows that are held as a file."""
        if not self._held:
            return
        with self._store.replacing(f"{self._name}/part-{self._next:06}.parquet") as file:
            file.write(self._format.write(self._held))
        self._next += 1
        self.rows += sum(table.num_rows for table in self._held)
        self.bad += sum(table.num_rows - table[CODE].null_count for table in self._held)
        self._held = []

    def finish(self) -> None:
        """Complete the table."""
        self.sync()

    def close(self) -> None:
        """Nothing is open."""

    def remove(self) -> None:
        """Delete the folder, if nothing is in it."""
        if not self._store.names(self._name):
            self._store.remove(self._name)

    def _take(self, name: str) -> None:
        place = f"{self._name}/{name}"
        try:
            with self._store.read(place) as file:
                rows = list(self._format.read(file))
        except ValueError as error:
            raise InvalidOption(f"{place} is no file of this run. Name another folder.") from error
        self.done.update(digest(path) for path, _ in rows)
        self.rows += len(rows)
        self.bad += sum(is_bad for _, is_bad in rows)
