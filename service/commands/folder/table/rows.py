"""How a row is written: a line of CSV, or a line of JSON.

Every row is one line, so that a line that was torn by a kill shows: it has no end.
"""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any, Protocol

from pydantic_core import to_json

from service.commands.folder.table.columns import CODE, PATH, Column
from service.http.answers import Answer

_FORMULA = "=+-@'"
"""A spreadsheet takes text that begins like this for a formula; the last would be lost in undoing that."""


class Lines(Protocol):
    """A format with a row a line."""

    head: bytes
    """What comes before the rows."""

    def write(self, row: Answer) -> bytes:
        """Return a row as one line with its end."""

    def read(self, line: bytes) -> tuple[str, bool]:
        """Return a written row's path, and whether the photo was bad.

        Raises:
            ValueError: it is no row of these columns.
        """


class JsonLines:
    """A JSON object a line: the service's answer, nested as there."""

    head = b""

    def write(self, row: Answer) -> bytes:
        """Return a row as one line with its end."""
        return to_json(row) + b"\n"

    def read(self, line: bytes) -> tuple[str, bool]:
        """Return a written row's path, and whether the photo was bad."""
        row = json.loads(line)
        if not isinstance(row, dict) or not isinstance(row.get(PATH), str):
            raise ValueError("no row")
        return row[PATH], CODE in row


class Csv:
    """Comma-separated values, RFC 4180 with plain line ends, UTF-8 without a byte order mark.

    Text that a spreadsheet would take for a formula has an apostrophe before it, which spreadsheets do not show.

    Args:
        columns: of the table.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self.head = self._line([column.name for column in columns])

    def write(self, row: Answer) -> bytes:
        """Return a row as one line with its end."""
        return self._line([_cell(column.cell(row)) for column in self._columns])

    def read(self, line: bytes) -> tuple[str, bool]:
        """Return a written row's path, and whether the photo was bad."""
        cells = next(csv.reader([line.decode()], strict=True))
        if len(cells) != len(self._columns):
            raise ValueError("another number of cells")
        path, code = cells[:2]
        return path.removeprefix("'"), bool(code)

    @staticmethod
    def _line(cells: Sequence[Any]) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        return text.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        line = " ".join(value.splitlines()) if "\n" in value or "\r" in value else value
        return f"'{line}" if line and line[0] in _FORMULA else line
    return value
