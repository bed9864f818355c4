"""Files that list photos: columns separated by blanks, as data sets have them, and CSV."""

import csv
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple, TypeVar

from training.data.layouts.files import folders_below
from training.errors import DatasetError

Number = TypeVar("Number", int, float)
NON_COMMERCIAL = "non-commercial research and education; the images belong to their photographers"


def read_table(path: Path, columns: int, *, unique: bool = False) -> list[tuple[str, list[str]]]:
    """Read lines of `key value …` separated by blanks; the last column of a two-column table may hold blanks.

    Args:
        path: of the file.
        columns: their number, the key included.
        unique: refuse a key that occurs twice.

    Raises:
        DatasetError: names the line.
    """
    try:
        lines = must_exist(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not text ({error})") from error
    rows: list[tuple[str, list[str]]] = []
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        key, *values = line.split(maxsplit=1) if columns == 2 else line.split()
        if len(values) != columns - 1:
            raise DatasetError(f"{path}, line {number}: expected {columns} columns, found {line!r}")
        if unique and key in seen:
            raise DatasetError(f"{path}, line {number}: {key} occurs twice")
        seen.add(key)
        rows.append((key, values))
    return rows


def must_exist(path: Path) -> Path:
    """Return the path.

    Raises:
        DatasetError: no file is there.
    """
    if not path.is_file():
        raise DatasetError(f"{path} is missing")
    return path


def find_below(folder: Path, name: str, *, folders: bool = False) -> Path | None:
    """Return the file (or folder) of a name that is nearest to the top, or None.

    Args:
        folder: to search.
        name: to find.
        folders: find a folder.
    """
    paths = (at / name for at, _ in folders_below(folder))
    return next((path for path in paths if (path.is_dir() if folders else path.is_file())), None)


def read_numbers(path: Path, columns: int, kind: type[Number]) -> dict[str, list[Number]]:
    """Read lines of `key number …`, each key once.

    Args:
        path: of the file.
        columns: their number, the key included.
        kind: of the numbers.

    Raises:
        DatasetError: names the file and the text that is no number.
    """
    try:
        return {key: list(map(kind, row)) for key, row in read_table(path, columns, unique=True)}
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from error


class Entry(NamedTuple):
    """A row of a table: a photo and its class.

    Attributes:
        file: as written.
        name: of the class, as written.
        part: `train`, `test`, or empty.
        place: file and row, for messages.
        row: with all its columns.
    """

    file: str
    name: str
    part: str
    place: str
    row: Mapping[str, str] = {}


def read_csv(path: Path) -> dict[int, dict[str, str]]:
    """Read a table with a header, separated by commas, semicolons or tabs; a missing cell is empty.

    Returns:
        The rows by their number in the file, from 1, the header's and empty ones left out.

    Raises:
        DatasetError: the file cannot be read as such a table.
    """
    rows = {number: row for number, row in enumerate(read_rows(path)[0], 1) if row}
    header = rows.pop(next(iter(rows), 0), [])
    return {number: dict(zip_longest(header, row[: len(header)], fillvalue="")) for number, row in rows.items()}


def read_rows(path: Path) -> tuple[list[list[str]], str]:
    """Read the cells of a table, and by which of comma, semicolon and tab its first line is separated.

    Raises:
        DatasetError: the file cannot be read as such a table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            separator = max(",;\t", key=header.count)
            return list(csv.reader(file, delimiter=separator, strict=True)), separator
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def without_doubles(entries: Iterable[Entry]) -> tuple[list[Entry], list[str]]:
    """Return the entries, each photo once, and a notice of the doubled rows.

    Raises:
        DatasetError: a photo is in two classes, or in both parts.
    """
    first: dict[str, Entry] = {}
    doubled: list[Entry] = []
    for entry in entries:
        other = first.setdefault(Path(entry.file).as_posix(), entry)
        if other is entry:
            continue
        for what in ("name", "part"):
            one, two = getattr(other, what), getattr(entry, what)
            if one != two:
                raise DatasetError(f"{entry.file} is in {one!r} ({other.place}) and in {two!r} ({entry.place})")
        doubled.append(entry)
    notice = f"{len(doubled)} rows are doubled and are used once: {doubled[0].place}, …" if doubled else ""
    return list(first.values()), [notice] if notice else []
