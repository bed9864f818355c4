"""Tables with a row a class that lie beside the photos: where they lie, and which row is of which class."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from training.data.layouts.labels import display_label
from training.data.layouts.splits import IMAGE_WORDS
from training.errors import DatasetError


def table_beside(folder: Path, name: str, above: Iterable[Path] = ()) -> Path | None:
    """Return the table of that name in a data set's folder; None without one.

    Args:
        folder: of the data set; beside one that is named like a folder of photos, the table is looked for too.
        name: of the file.
        above: folders below it that hold the class folders; the table may lie in these or between.

    Raises:
        DatasetError: there are two.
    """
    places = {folder} | ({folder.resolve().parent} if folder.name.lower() in IMAGE_WORDS else set())
    for path in above:
        places |= {place for place in (path, *path.parents) if place.is_relative_to(folder)}
    found = sorted({path.resolve(): path for place in places if (path := place / name).is_file()}.values())
    if len(found) > 1:
        raise DatasetError(f"{found[0]} and {found[1]}: one {name} is expected, not two")
    return found[0] if found else None


def class_rows(
    path: Path, rows: Sequence[Sequence[str]], at: int, names: Sequence[str], labels: Sequence[str]
) -> dict[int, tuple[int, list[str]]]:
    """Return the row of each class that has one: its number, and as many cells as the header.

    Args:
        path: of the table.
        rows: of it, the header first.
        at: index of the column of classes.
        names: of the K classes, as the data set writes them.
        labels: of the same classes, as shown to people.

    Raises:
        DatasetError: names row and column.
    """
    header = rows[0]
    classes = {display_label(name): index for index, name in enumerate(names)}
    classes |= {label: index for index, label in enumerate(labels)}
    found: dict[int, tuple[int, list[str]]] = {}
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) > len(header):
            beyond = f"{path}, row {number}, column {len(header) + 1}"
            raise DatasetError(f"{beyond}: {len(row)} cells, but {len(header)} columns in row 1")
        cells = [*row, *[""] * (len(header) - len(row))]
        where = f"{path}, row {number}, column {at + 1} ({header[at].strip()})"
        index = _class(where, cells[at], classes)
        if index in found:
            raise DatasetError(f"{where}: the class {labels[index]!r} is also in row {found[index][0]}")
        found[index] = number, cells
    if not found:
        raise DatasetError(f"{path}: there is no row of a class below the header")
    return found


def _class(where: str, written: str, classes: dict[str, int]) -> int:
    """Return the number of the class that a row is of; CUB's number before its name may stand or not."""
    name = display_label(written)
    if not name.strip():
        raise DatasetError(f"{where}: the name of the class is empty")
    for known in (name, re.sub(r"^\d+[. ]", "", name)):
        if known in classes:
            return classes[known]
    near = get_close_matches(name, classes, n=1)
    raise DatasetError(
        f"{where}: the data has no class {written.strip()!r}{f'; did you mean {near[0]!r}?' if near else ''}"
    )
