"""`taxonomy.csv`, to which taxa the classes belong: a row a class, a column a rank, from narrow to wide."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from model.contract.labels import label_fault
from model.contract.taxonomy import CLASS, Taxonomy
from training.data.layouts.class_tables import class_rows
from training.data.layouts.labels import display_label, label_key
from training.data.layouts.places import CLASS_COLUMNS, column
from training.data.layouts.tables import read_rows
from training.errors import DatasetError


def read_taxonomy(path: Path, labels: Sequence[str]) -> Taxonomy:
    """Read a table of taxa; return it in the order of the classes.

    Args:
        path: of the table.
        labels: of the K classes, as shown to people.

    Raises:
        DatasetError: it does not have one row for each class, a cell is empty, or a taxon is in two others; names row
            and column.
    """
    rows, _ = read_rows(path)
    header = rows[0] if rows else []
    title = column(header, (CLASS, *CLASS_COLUMNS))
    if title is None:
        raise DatasetError(f"{path}, row 1: expected a column named class, and one for each rank, narrow to wide")
    columns = [index for index in range(len(header)) if index != header.index(title)]
    ranks = _ranks(path, header, columns)
    found = class_rows(path, rows, header.index(title), labels, labels)
    if missing := [label for index, label in enumerate(labels) if index not in found]:
        raise DatasetError(
            f"{path}: {len(missing)} of {len(labels)} classes have no row: {', '.join(map(repr, missing[:5]))}"
        )
    taxa = {index: _taxa(path, number, cells, header, columns) for index, (number, cells) in found.items()}
    _check_tree(path, {number: taxa[index] for index, (number, _) in found.items()}, ranks, columns)
    return Taxonomy(ranks=ranks, rows=tuple(taxa[index] for index in range(len(labels))))


def _ranks(path: Path, header: Sequence[str], columns: Sequence[int]) -> tuple[str, ...]:
    """Return the ranks that the header names."""
    if not columns:
        raise DatasetError(f"{path}, row 1: there is no column of a rank, such as genus")
    first = {label_key(CLASS): -1}
    for at in columns:
        where = f"{path}, row 1, column {at + 1} ({header[at].strip()!r})"
        if fault := label_fault(display_label(header[at])):
            raise DatasetError(f"{where}: the name of the rank {fault}")
        if first.setdefault(label_key(display_label(header[at])), at) != at:
            raise DatasetError(f"{where}: another column has this name")
    return tuple(display_label(header[at]) for at in columns)


def _taxa(
    path: Path, number: int, cells: Sequence[str], header: Sequence[str], columns: Sequence[int]
) -> tuple[str, ...]:
    """Return the taxa in a row."""
    for at in columns:
        if fault := label_fault(display_label(cells[at])):
            where = f"{path}, row {number}, column {at + 1} ({header[at].strip()})"
            raise DatasetError(f"{where}: the name of the taxon {fault}")
    return tuple(display_label(cells[at]) for at in columns)


def _check_tree(path: Path, taxa: dict[int, tuple[str, ...]], ranks: Sequence[str], columns: Sequence[int]) -> None:
    """Raise unless every taxon is in one of the next rank: a genus in one family.

    Args:
        path: of the table.
        taxa: of each row, by its number.
        ranks: of the taxa.
        columns: of the ranks in the table.
    """
    above: dict[tuple[int, str], tuple[str, int]] = {}
    for number, row in taxa.items():
        for place, (name, wider) in enumerate(pairwise(row)):
            other, first = above.setdefault((place, name), (wider, number))
            if other != wider:
                raise DatasetError(
                    f"{path}, row {number}, column {columns[place + 1] + 1} ({ranks[place + 1]}): the {ranks[place]} "
                    f"{name!r} is in {wider!r} here, and in {other!r} in row {first}"
                )
