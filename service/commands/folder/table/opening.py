"""Which table a command writes, and opening it: new, or where an earlier run of the same command stopped."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from model.files import check_folder, check_target
from service.commands.folder.remote import is_address
from service.commands.folder.table.columns import Column
from service.commands.folder.table.files import TableOfFiles
from service.commands.folder.table.header import Header, check_same, encode, locked, sidecar_of
from service.commands.folder.table.lines import GrowingTable
from service.commands.folder.table.parquet import Parquet, check_installed
from service.commands.folder.table.parts import PartedTable, PartsOfLines
from service.commands.folder.table.rows import Csv, JsonLines, Lines
from service.commands.folder.table.stores import LocalStore, RemoteStore, Store
from service.errors import InvalidOption
from service.http.answers import Answer

SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
FORMATS = ("csv", "jsonl", "parquet")
"""Of one file."""
FILES = "parquet files"
"""The format of a folder of Parquet files."""


class Table(Protocol):
    """Where rows go."""

    done: set[bytes]
    rows: int
    bad: int

    def add(self, rows: Sequence[Answer]) -> None:
        """Write rows."""

    def sync(self) -> None:
        """Bring all rows to the disk, so that a loss of power does not lose them."""

    def finish(self) -> None:
        """Complete the table: all photos are done."""

    def close(self) -> None:
        """Let go of it."""

    def remove(self) -> None:
        """Delete it."""


def format_of(out: str, named: str | None) -> str:
    """Return the format of a table: the one that was named, else by the suffix of its name.

    Raises:
        InvalidOption: neither says.
    """
    if named is not None:
        return named
    found = SUFFIXES.get(os.path.splitext(out)[1].lower())
    if found is None:
        raise InvalidOption(f"{out}: the name must end in {', '.join(SUFFIXES)}, or `--format` says what to write.")
    return found


def check_output(out: str, format_: str) -> None:
    """Refuse an output that cannot be written, before the model is loaded.

    Raises:
        WriteError: it cannot be written.
        InvalidOption: it is there, and not of this program; or a package that it needs is missing.
    """
    if format_ in ("parquet", FILES):
        check_installed()
    if is_address(out):
        store, name = _remote(out)
        is_there, is_ours = store.exists(name) or bool(store.names(name)), store.exists(f"{name}.json")
    else:
        path, sidecar = Path(out), sidecar_of(Path(out))
        if format_ == FILES:
            check_folder(path)
        else:
            check_target(path)
        if not path.parent.is_dir():
            raise InvalidOption(f"{path.parent}: there is no such folder.")
        if format_ != FILES and path.exists() and not path.is_file():
            raise InvalidOption(f"{out} is no plain file, which can be read again to go on.")
        is_there = any(path.iterdir()) if path.is_dir() else path.exists() and path.stat().st_size > 0
        is_ours = sidecar.is_file() and sidecar.stat().st_size > 0
    if is_there and not is_ours:
        raise InvalidOption(f"{out} is there already, and not of this command: it has no {out}.json beside it.")


@contextmanager
def opened(out: str, format_: str, header: Header, columns: Sequence[Column]) -> Iterator[Table]:
    """Open a table; one without a row at the end is deleted again.

    Raises:
        InvalidOption: it is another run's, or being written by another command.
        OSError: it cannot be written.
    """
    if is_address(out):
        store, name = _remote(out)
        sidecar = f"{name}.json"
        if store.exists(sidecar):
            with store.read(sidecar) as file:
                check_same(out, file.read(), header)
        else:
            with store.replacing(sidecar) as file:
                file.write(encode(header))
        with _closed(_parted(store, name, format_, header, columns), lambda: store.remove(sidecar)) as table:
            yield table
        return
    path, beside = Path(out), sidecar_of(Path(out))
    with locked(beside):
        if written := beside.read_bytes():
            check_same(out, written, header)
        else:
            beside.write_bytes(encode(header))  # in place: the lock is on this very file
        with _closed(_local(path, format_, header, columns), beside.unlink) as table:
            yield table


def _local(path: Path, format_: str, header: Header, columns: Sequence[Column]) -> Table:
    if format_ in ("parquet", FILES):
        return _parted(LocalStore(path.parent), path.name, format_, header, columns)
    return GrowingTable(path, _lines(format_, columns))


def _parted(store: Store, name: str, format_: str, header: Header, columns: Sequence[Column]) -> Table:
    if format_ == FILES:
        return TableOfFiles(store, name, Parquet(columns, header))
    content = Parquet(columns, header) if format_ == "parquet" else PartsOfLines(_lines(format_, columns))
    return PartedTable(store, name, content)


def _lines(format_: str, columns: Sequence[Column]) -> Lines:
    return Csv(columns) if format_ == "csv" else JsonLines()


def _remote(out: str) -> tuple[Store, str]:
    folder, _, name = out.rpartition("/")
    return RemoteStore(folder), name


@contextmanager
def _closed(table: Table, remove_header: Callable[[], None]) -> Iterator[Table]:
    """Close a table at the end, and delete it if it has no rows."""
    try:
        yield table
    finally:
        table.close()
        if not table.rows:
            table.remove()
            remove_header()
