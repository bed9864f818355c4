"""What a table is of: a small JSON file beside it, `TABLE.json`, which the same command must agree with to go on.

Beside it and not in it, so that a CSV opens in a spreadsheet. It also holds the lock: one command a table.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from model import files
from service.errors import InvalidOption

Header = dict[str, Any]
_BLANK = "nothing"


def sidecar_of(table: Path) -> Path:
    """Return the path of a table's header."""
    return table.with_name(f"{table.name}.json")


@contextmanager
def locked(sidecar: Path) -> Iterator[None]:
    """Hold the lock of a table; its header's file is made where there is none.

    Raises:
        InvalidOption: another command holds it.
        OSError: it cannot be written.
    """
    with ExitStack() as held:
        try:
            held.enter_context(files.locked(sidecar))
        except BlockingIOError as error:
            raise InvalidOption(f"{sidecar.with_suffix('')} is being written by another command.") from error
        yield


def encode(header: Header) -> bytes:
    """Return a header as it is written."""
    return (json.dumps(header, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def check_same(table: str, written: bytes, header: Header) -> None:
    """Refuse to go on with a table that another run wrote.

    Args:
        table: its name, for the message.
        written: the header beside it.
        header: of this run.

    Raises:
        InvalidOption: they differ; the message says in what.
    """
    try:
        there = json.loads(written)
    except ValueError:
        there = None
    if not isinstance(there, dict) or "model" not in there or "options" not in there:
        raise InvalidOption(f"{table} is of another program: {table}.json is not the header of a table of fieldmark.")
    differences = [
        f"{name} {_shown(then)} there, {_shown(now)} here"
        for name, then, now in _differences(there, json.loads(encode(header)))
        if name not in ("fieldmark", "model.name", "model.version")
    ]
    if differences:
        raise InvalidOption(f"{table} is of another run: {'; '.join(differences)}. Name another file.")


def _differences(then: Header, now: Header, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for name in sorted(then.keys() | now.keys()):
        before, after = then.get(name), now.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, f"{prefix}{name}.")
        elif before != after:
            yield prefix + name, before, after


def _shown(value: Any) -> str:
    text = _BLANK if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:80]}…"
