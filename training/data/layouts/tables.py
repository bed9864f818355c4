"""Lists as data sets keep them: lines of columns, separated by blanks."""

import csv
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from training.data.layouts.files import visible_folders
from training.errors import DatasetError

NON_COMMERCIAL = "non-commercial research and education; the images belong to their photographers"


def read_table(path: Path, columns: int, *, unique: bool = False) -> list[tuple[str, list[str]]]:
    """Read lines of `key value …` separated by blanks; the last column of a two-column table may hold blanks.

    Args:
        path: of the file.
        columns: how many there are, the key included.
        unique: refuse a key that stands there twice.

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
            raise DatasetError(f"{path}, line {number}: {key} stands there twice")
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


def find_below(folder: Path, name: str, *, folders: bool = False, depth: int = 4) -> Path | None:
    """Return the file (or folder) of a name that lies least deep, or None.

    Args:
        folder: where to look.
        name: to find.
        folders: look for a folder.
        depth: levels below.
    """
    queue = deque([(folder, 0)])
    while queue:
        at, level = queue.popleft()
        if (at / name).is_dir() if folders else (at / name).is_file():
            return at / name
        if level < depth:
            queue.extend((path, level + 1) for path in visible_folders(at))
    return None


def read_numbers(path: Path, columns: int) -> dict[str, list[float]]:
    """Read lines of `key number …`, each key once.

    Raises:
        DatasetError: names the file and what is no number there.
    """
    try:
        return {key: list(map(float, row)) for key, row in read_table(path, columns, unique=True)}
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from error


class Entry(NamedTuple):
    """A row of a table that says of which class a photo is.

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


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a table with a header, separated by commas, semicolons or tabs; a cell that is missing is empty.

    Raises:
        DatasetError: it is no such table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=max(",;\t", key=header.count), strict=True)
            return [{key: value or "" for key, value in row.items() if isinstance(key, str)} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def without_doubles(entries: Iterable[Entry]) -> tuple[list[Entry], list[str]]:
    """Return the entries, each photo once, and a notice of the rows that were doubled.

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
    notice = f"{len(doubled)} rows are doubled and count once: {doubled[0].place}, …" if doubled else ""
    return list(first.values()), [notice] if notice else []
