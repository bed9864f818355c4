"""The summary of an evaluation in a model card, between two comments: written by a command, never by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.files import write_whole
from training.errors import TrainingError
from training.evaluation.figures import Figure
from training.evaluation.mark_tables import MarkResult
from training.evaluation.report.grids import Grid, map_grids
from training.evaluation.report.mark_grids import mark_grids
from training.evaluation.report.unknown_grids import unknown_grids
from training.evaluation.report.words import FIGURES, KNOWING, NAMING, SEEING, Word, interval, number
from training.evaluation.tables import MapRow, Value
from training.evaluation.unknown import UnknownResult

START, END = "<!-- evaluation -->", "<!-- /evaluation -->"
HEADING = "## Measured"
"""Above a summary that is appended."""


def summary(
    figures: Mapping[str, Value],
    rows: list[MapRow],
    provenance: Mapping[str, Any],
    photos: str,
    marks: MarkResult | None = None,
    unknown: Sequence[UnknownResult] = (),
) -> str:
    """Return the summary, Markdown.

    Args:
        figures: by their names in JSON.
        rows: the table of maps.
        provenance: with `command`, `commit`, `date` and `model_sha256`.
        photos: which they are, in words.
        marks: what was found of the marks; None where the network has none.
        unknown: what was found of photos of unknown things.
    """
    made = f"Commit `{provenance['commit']}`, {provenance['date']}, model `{provenance['model_sha256'][:12]}…`"
    parts = [f"{photos}; every figure with its 95% interval. {made}:", f"```sh\n{provenance['command']}\n```"]
    parts.append(_list(figures, (*NAMING, *KNOWING)))
    grids = map_grids(rows)
    if grids:
        parts += ["Where the maps look, beside maps that know nothing of the photo:", _table(grids[0])]
    if marks is not None:
        parts += ["Field marks, those that at least half of the observers see on the class:", _list(figures, SEEING)]
        for grid in mark_grids(marks, figures):
            parts += [f"{grid.title} ({'; '.join(map(_meaning, grid.columns.values()))}):", _table(grid)]
    for grid in unknown_grids(unknown):
        parts += [f"{grid.title} ({'; '.join(map(_meaning, grid.columns.values()))}):", _table(grid)]
    return "\n\n".join(parts)


def check_card(path: Path) -> None:
    """Raise unless a summary could be written into this card now.

    Raises:
        TrainingError: it is not UTF-8, or its comments do not make one pair.
    """
    insert(_read(path), "", path.name)


def write_card(path: Path, text: str) -> None:
    """Write a summary into a card, whole or not at all; the rest of the card stays as it is, byte for byte.

    Raises:
        TrainingError: see `check_card`.
        WriteError: it could not be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, insert(_read(path), text, path.name).encode())


def insert(card: str, text: str, name: str = "the model card") -> str:
    """Return a card with a summary between its two comments; at its end, under a heading, where it has none.

    Raises:
        TrainingError: the comments do not make one pair.
    """
    line = "\r\n" if "\r\n" in card else "\n"
    block = f"{START}\n{text}\n{END}".replace("\n", line)
    if START not in card and END not in card:
        gap = "" if not card else line if card.endswith("\n") else 2 * line
        return f"{card}{gap}{HEADING}{line}{line}{block}{line}"
    start, end = card.find(START), card.find(END)
    if card.count(START) != 1 or card.count(END) != 1 or end < start:
        raise TrainingError(f"{name}: needs {START} and {END} behind it, once each, or neither")
    return f"{card[:start]}{block}{card[end + len(END) :]}"


def _read(path: Path) -> str:
    if not path.exists():
        return ""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error


def _list(figures: Mapping[str, Value], names: Sequence[str]) -> str:
    """Return those figures that there are, one a line."""
    lines = ["| | value | 95% interval | photos |", "|---|---|---|---|"]
    for name in names:
        figure, word = figures.get(name), FIGURES[name]
        if isinstance(figure, Figure):
            value, ends = number(figure.value, percent=word.percent), interval(figure, percent=word.percent)
            lines.append(f"| {word.name} | {value} | {ends}{'%' if word.percent else ''} | {figure.n} |")
    return "\n".join(lines)


def _meaning(word: Word) -> str:
    return f"{word.name}: {word.meaning[0].lower()}{word.meaning[1:].rstrip('.')}"


def _table(grid: Grid) -> str:
    """Return a table in Markdown: the first line of each kind of map, its last layer; n where photos do not count."""
    photos = max(figure.n for line in grid.lines for figure in line.figures.values())
    seen: set[str] = set()
    lines = [
        "| |" + "".join(f" {word.name} |" for word in grid.columns.values()),
        "|---" * (len(grid.columns) + 1) + "|",
    ]
    for line in grid.lines:
        if line.name in seen:
            continue
        seen.add(line.name)
        cells = [
            f" {_cell(line.figures[name], photos, percent=word.percent)} |" if name in line.figures else " – |"
            for name, word in grid.columns.items()
        ]
        lines.append(f"| {line.name}{' (chance)' if line.chance else ''} |{''.join(cells)}")
    return "\n".join(lines)


def _cell(figure: Figure, photos: int, *, percent: bool) -> str:
    of = "" if figure.n == photos else f", n = {figure.n}"
    return f"{number(figure.value, percent=percent)} ({interval(figure, percent=percent)}{of})"
