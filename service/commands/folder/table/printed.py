"""A table that is only shown: one line a photo, on the standard output."""

import json
import sys
from collections.abc import Sequence

from model.terminal import one_line, plain
from service.commands.folder.table.columns import CODE, DETAIL, PATH
from service.http.answers import Answer


class Printed:
    """Prints rows as they come; see `opening.Table`.

    Args:
        as_json: a JSON object a line instead of text.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.done: set[bytes] = set()
        self.rows = self.bad = 0

    def add(self, rows: Sequence[Answer]) -> None:
        """Print rows."""
        for row in rows:
            print(json.dumps(row, ensure_ascii=False) if self._as_json else plain(row_line(row)))  # noqa: T201
        sys.stdout.flush()
        self.rows += len(rows)
        self.bad += sum(CODE in row for row in rows)

    def sync(self) -> None:
        """Nothing is kept."""

    def finish(self) -> None:
        """Nothing is to be completed."""

    def close(self) -> None:
        """Nothing is open."""

    def remove(self) -> None:
        """Nothing is there."""


def row_line(row: Answer) -> str:
    """Return a row for people: the likeliest class and its probability, and the path last, as it has any length."""
    if CODE in row:
        return f"      –  {row[CODE]}  {row[PATH]}: {one_line(row[DETAIL])}"
    best = row["predictions"][0]
    accepted = {True: "", False: "  none of these", None: ""}[row.get("accepted")]
    unlike = "" if row.get("known", True) else "  like none of the classes"
    return f"{best['probability']:7.2%}  {one_line(best['label'])}{accepted}{unlike}  {row[PATH]}"
