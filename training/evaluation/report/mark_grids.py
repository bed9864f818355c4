"""Tables of marks: where they are read, beside chance and part by part, and what blurring a place or a part costs."""

from collections.abc import Mapping, Sequence

from training.evaluation.figures import Figure
from training.evaluation.mark_tables import MarkResult
from training.evaluation.marks.places import LOCATED, MARKS, PlaceRow
from training.evaluation.marks.sight import SightRow
from training.evaluation.report.grids import VERDICTS, Grid, Line, used, verdict
from training.evaluation.report.words import CHANCE, EVIDENCE, GAUSSIAN, PLACES, SIGHT, map_name


def mark_grids(found: MarkResult | None, figures: Mapping[str, Figure | float]) -> list[Grid]:
    """Return the tables of the marks that there are: as a whole, part by part, of blurred places, of blurred parts.

    Args:
        found: of the marks; None where the network has none.
        figures: by their names in JSON.
    """
    if found is None:
        return []
    grids = [
        Grid("Where the marks are read", PLACES, _wholes(found.places)),
        Grid("Part by part", PLACES, _parts(found.places)),
        Grid("Evidence in place", EVIDENCE, _evidence(figures)),
        Grid("Is seen what is there?", SIGHT, [_blurred(row) for row in found.sight]),
    ]
    return [Grid(grid.title, used(grid.columns, grid.lines), grid.lines) for grid in grids if grid.lines]


def _wholes(rows: Sequence[PlaceRow]) -> list[Line]:
    """Return a line for each kind of map, of the marks of all parts; chance behind."""
    chance = _gaussian(rows, "")
    lines = [
        _line(row, "located ones" if row.part else "", map_name(row.name), chance)
        for row in rows
        if row.part in ("", LOCATED) and (row.name == MARKS or not row.part)
    ]
    return sorted(lines, key=lambda line: line.chance)


def _parts(rows: Sequence[PlaceRow]) -> list[Line]:
    """Return a line for each part, of the marks' own maps, the best first."""
    lines = [
        _line(row, "", row.part, _gaussian(rows, row.part))
        for row in rows
        if row.name == MARKS and row.part not in ("", LOCATED)
    ]
    return sorted(lines, key=lambda line: -line.figures["hits"].value)


def _line(row: PlaceRow, detail: str, name: str, chance: Mapping[str, Figure]) -> Line:
    is_chance = row.name in CHANCE
    marks = {} if is_chance else {key: VERDICTS[verdict(row.figures[key], chance[key])] for key in chance}
    pairs = f"{row.pairs} marks on photos"
    return Line(name, f"{detail}, {pairs}" if detail else pairs, row.figures, is_chance, marks)


def _gaussian(rows: Sequence[PlaceRow], part: str) -> Mapping[str, Figure]:
    return next((row.figures for row in rows if (row.name, row.part) == (GAUSSIAN, part)), {})


def _evidence(figures: Mapping[str, Figure | float]) -> list[Line]:
    """Return a line for each kind of place that was blurred, from figures named `evidence_MEASURE_ROW`."""
    rows: dict[str, dict[str, Figure]] = {}
    for column in EVIDENCE:
        for name, figure in figures.items():
            if isinstance(figure, Figure) and (name == column or name.startswith(f"{column}_")):
                rows.setdefault(name.removeprefix(column).removeprefix("_") or MARKS, {})[column] = figure
    return [Line(map_name(row), "", found, row in CHANCE, {}) for row, found in rows.items()]


def _blurred(row: SightRow) -> Line:
    return Line(row.part or "all parts", "", row.figures, chance=False, marks={})
