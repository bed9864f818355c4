"""`marks.csv`, what a user's field guide says of the classes: a row a class, a column a mark, `part: value`.

A cell is the share of observers, 0 to 1, who see the mark on the class; an empty cell says that it is unknown.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from model.contract.labels import label_fault
from training.data.layouts.class_tables import class_rows, table_beside
from training.data.layouts.files import MARKS
from training.data.layouts.labels import display_label, label_key
from training.data.layouts.places import CLASS_COLUMNS, column
from training.data.layouts.tables import read_rows
from training.data.marks import Mark, Marks
from training.errors import DatasetError


def marks_beside(
    folder: Path, names: Sequence[str], labels: Sequence[str], above: Iterable[Path] = ()
) -> tuple[Marks | None, tuple[str, ...]]:
    """Return the marks of the table in a data set's folder, and notices of its gaps; None without a table.

    Args:
        folder: of the data set; beside one that is named like a folder of photos, the table is looked for too.
        names: of the K classes, as the data set writes them.
        labels: of the same classes, as shown to people.
        above: folders below it that hold the class folders; the table may lie in these or between.

    Raises:
        DatasetError: there are two tables, or the one cannot be used; names row and column.
    """
    path = table_beside(folder, MARKS, above)
    return (None, ()) if path is None else read_marks(path, names, labels)


def read_marks(path: Path, names: Sequence[str], labels: Sequence[str]) -> tuple[Marks, tuple[str, ...]]:
    """Read a table of marks; return it in the order of the classes, with a notice of classes that it lacks.

    Args:
        path: of the table.
        names: of the K classes, as the data set writes them.
        labels: of the same classes, as shown to people; a row may name its class either way.

    Raises:
        DatasetError: names row and column.
    """
    rows, separator = read_rows(path)
    header = rows[0] if rows else []
    title = column(header, ("class", *CLASS_COLUMNS))
    if title is None:
        raise DatasetError(f"{path}, row 1: expected a column named class, and one named `part: value` for each mark")
    columns = [index for index in range(len(header)) if index != header.index(title)]
    marks = _marks(path, header, columns)
    table = np.full((len(labels), len(columns)), np.nan)
    found = class_rows(path, rows, header.index(title), names, labels)
    for index, (number, cells) in found.items():
        for place, at in enumerate(columns):
            where = f"{path}, row {number}, column {at + 1} ({header[at].strip()})"
            table[index, place] = _share(where, cells[at].strip(), decimal_comma=separator != ",")
    for place, at in enumerate(columns):
        if np.isnan(table[:, place]).all():
            raise DatasetError(f"{path}, row 1, column {at + 1} ({header[at].strip()}): no class has a value")
    missing = [label for index, label in enumerate(labels) if index not in found]
    notices = [f"{path} lacks {len(missing)} classes, whose marks are unknown: {', '.join(missing[:5])}"]
    return Marks(marks, table), tuple(notices if missing else ())


def _marks(path: Path, header: Sequence[str], columns: Sequence[int]) -> tuple[Mark, ...]:
    """Return the marks that the header names."""
    if not columns:
        raise DatasetError(f"{path}, row 1: there is no column of a mark, such as `crown: yellow`")
    marks: list[Mark] = []
    first: dict[str, int] = {}
    for at in columns:
        where = f"{path}, row 1, column {at + 1} ({header[at].strip()!r})"
        if fault := label_fault(header[at]):
            raise DatasetError(f"{where}: the name of the mark {fault}")
        part, _, value = map(display_label, header[at].partition(":"))
        if label_fault(part) or label_fault(value):
            raise DatasetError(f"{where}: expected `part: value`, such as `crown: yellow`")
        name = f"{value} {part}"
        other = first.setdefault(label_key(name), at)
        if other != at:
            raise DatasetError(f"{where}: the same mark as in column {other + 1}")
        marks.append(Mark(name, part, value, f"{part}: {value}"))
    return tuple(marks)


def _share(where: str, text: str, *, decimal_comma: bool) -> float:
    """Return the share in a cell; NaN if it is empty."""
    if not text:
        return float("nan")
    try:
        share = float(text.replace(",", ".") if decimal_comma else text)
    except ValueError as error:
        raise DatasetError(f"{where}: {text!r} is no number from 0 to 1") from error
    if not 0 <= share <= 1:
        raise DatasetError(f"{where}: {text} is not from 0 to 1")
    return share
