"""The table of priors beside a model, `priors.csv`: how common its classes are in places or months.

The first row names the priors, every other row begins with a class's label. A column's numbers are shares on any scale;
0 says that the class is never there. A table that is not valid is refused as a whole, with its row.
"""

import csv
import difflib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from model.contract.labels import label_fault
from service.inference.files.versions import Signature, signature_of

FILE = "priors.csv"
MAX_BYTES = 4 * 1024 * 1024
MAX_PRIORS = 512
"""Most columns: `/models` lists their names."""
MAX_NAME = 64
"""Longest name of a prior, characters."""
_SHOWN = 60
"""Most characters of a cell in a message."""
_SHOWN_CLASSES = 3

Floats = npt.NDArray[np.float64]
Priors = Mapping[str, Floats]
"""By name: how common each class is, summing to 1, (K,)."""
NO_PRIORS: Priors = MappingProxyType({})


class PriorsRejected(Exception):
    """The table is not valid; the message names file and row."""

    def __init__(self, reason: str, row: int | None = None) -> None:
        super().__init__(f"{FILE}: {reason}" if row is None else f"{FILE}, row {row}: {reason}")


def read_priors(data: bytes, labels: Sequence[str]) -> Priors:
    """Return the priors of a table.

    Args:
        data: content of the file: CSV, UTF-8.
        labels: of the model's classes, K.

    Raises:
        PriorsRejected: not such a table, or not of exactly these classes.
    """
    rows = _rows(data)
    if not rows:
        raise PriorsRejected("it is empty")
    first, header = rows[0]
    names = _names(header, first)
    index = {label: number for number, label in enumerate(labels)}
    table, seen = np.zeros((len(labels), len(names))), dict[str, int]()
    for row, cells in rows[1:]:
        label = cells[0].strip()
        if label not in index:
            similar = difflib.get_close_matches(label[:_SHOWN], labels, n=1)
            raise PriorsRejected(
                f"the model has no class {_cut(label)}" + (f"; similar: {similar[0]!r}" if similar else ""), row
            )
        if label in seen:
            raise PriorsRejected(f"the class {_cut(label)} stands in row {seen[label]} already", row)
        seen[label] = row
        table[index[label]] = _numbers(cells[1:], names, row)
    missing = [label for label in labels if label not in seen]
    if missing:
        shown = ", ".join(map(_cut, missing[:_SHOWN_CLASSES])) + (", …" if len(missing) > _SHOWN_CLASSES else "")
        raise PriorsRejected(f"no row for {len(missing)} of {len(labels)} classes: {shown}")
    for name, column in zip(names, table.T, strict=True):
        if not column.any():
            raise PriorsRejected(f"the prior {_cut(name)} is 0 for every class", first)
    table /= table.max(axis=0)  # before the sum, which may be too large for a float
    table /= table.sum(axis=0)
    table.flags.writeable = False
    return MappingProxyType(dict(zip(names, np.ascontiguousarray(table.T), strict=True)))


@dataclass(slots=True)
class PriorsFile:
    """The table beside one model file.

    Attributes:
        seen: its signature when it was last looked for; None where it was not there.
        tried: its signature when it was last read.
        failed: why it was refused then; empty where it was not.
    """

    seen: Signature | None = None
    tried: Signature | None = None
    failed: str = ""

    def reread(self, model: Path, labels: Sequence[str], *, poll_s: float, trust: bool, again: bool) -> Priors | None:
        """Return the priors if the table has changed, None where the ones in use stay; blocks.

        A table that is gone stays in use until an operator reloads.

        Args:
            model: the model's file.
            labels: of its classes.
            poll_s: how often the files are polled, seconds.
            trust: take the file as complete, rather than wait until it stays the same.
            again: at an operator's request: try a refused table again, and drop one that is gone.

        Raises:
            PriorsRejected: the table is not valid; once, unless `again`.
        """
        path = model.with_name(FILE)
        signature = signature_of(path)
        if signature is None:
            self.seen = self.tried = None
            return NO_PRIORS if again else None
        settled = trust or signature == self.seen or signature.is_older_than(poll_s)
        self.seen = signature
        if not settled or (signature == self.tried and not (again and self.failed)):
            return None
        failed_before, self.tried, self.failed = self.failed, signature, ""
        try:
            return read_priors(_read(path), labels)
        except PriorsRejected as error:
            self.failed = str(error)
            if isinstance(error.__cause__, OSError):
                self.tried = None  # a fault of the storage or of its rights may end without a change of the file
            if again or self.failed != failed_before:
                raise
            return None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PriorsRejected(f"it cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise PriorsRejected(f"it is larger than {MAX_BYTES} bytes")
    return data


def _rows(data: bytes) -> list[tuple[int, list[str]]]:
    """Return the rows that are not blank, each with its number in a spreadsheet."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PriorsRejected("it is not UTF-8", data[: error.start].count(b"\n") + 1) from error
    rows, row = list[tuple[int, list[str]]](), 0
    try:
        for row, cells in enumerate(csv.reader(io.StringIO(text, newline=""), strict=True), 1):
            if any(cell.strip() for cell in cells):
                rows.append((row, cells))
                if len(cells) != len(rows[0][1]):
                    raise PriorsRejected(f"it has {len(cells)} cells, the first row {len(rows[0][1])}", row)
    except csv.Error as error:
        raise PriorsRejected(f"it is not CSV: {error}", row + 1) from error
    return rows


def _names(header: Sequence[str], row: int) -> list[str]:
    names = [cell.strip() for cell in header[1:]]
    if not 1 <= len(names) <= MAX_PRIORS:
        raise PriorsRejected(f"it names {len(names)} priors; from 1 to {MAX_PRIORS} follow the first cell", row)
    for number, name in enumerate(names, 2):
        if fault := label_fault(name):
            raise PriorsRejected(f"the name in column {number} {fault}", row)
        if len(name) > MAX_NAME:
            raise PriorsRejected(f"the name in column {number} is longer than {MAX_NAME} characters", row)
        if name in names[: number - 2]:
            raise PriorsRejected(f"the prior {_cut(name)} is there twice", row)
    return names


def _numbers(cells: Sequence[str], names: Sequence[str], row: int) -> list[float]:
    values = []
    for name, cell in zip(names, cells, strict=True):
        try:
            value = float(cell)
        except ValueError:
            reason = f"{_cut(cell)} is not a number" if cell.strip() else "the cell is empty"
            raise PriorsRejected(f"{reason}, under {_cut(name)}", row) from None
        if not math.isfinite(value) or value < 0:
            raise PriorsRejected(f"{_cut(cell)} is not a number from 0, under {_cut(name)}", row)
        values.append(value)
    if not any(values):
        raise PriorsRejected("all its numbers are 0, so that no prior allows the class; give it a small one", row)
    return values


def _cut(text: str) -> str:
    return repr(text[:_SHOWN])
