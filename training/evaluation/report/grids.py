"""Tables of figures: maps beside chance, faithfulness, sanity, and what has no table of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.evaluation.figures import Figure
from training.evaluation.report.words import CHANCE, FAITHFULNESS, FIGURES, GAUSSIAN, MAPS, MEASURES, Word, map_name
from training.evaluation.tables import HEADLINES, MapRow

VERDICTS = {"above chance": "↑", "below chance": "↓", "not clearly different from chance": ""}
SANITY = "sanity_"
OF_MARKS = ("mark_", "evidence_", "seen_sees")
"""Beginnings of the names of figures that stand in the tables of marks."""
PHOTOS = {
    "all": "All photos",
    "right": "Only photos that are named rightly",
    "wrong": "Only photos that are named wrongly",
}


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
        name: in words.
        detail: layer, for example; may be empty.
        figures: by column.
        chance: its maps know nothing of the photo.
        marks: by column: `↑` the figure's interval lies above that of the centred Gaussian, `↓` below.
    """

    name: str
    detail: str
    figures: Mapping[str, Figure]
    chance: bool
    marks: Mapping[str, str]


@dataclass(frozen=True)
class Grid:
    """A table of figures.

    Attributes:
        title: of it.
        columns: by their names in JSON; those without any figure are left out.
        lines: of it.
    """

    title: str
    columns: Mapping[str, Word]
    lines: Sequence[Line]


def map_grids(rows: Sequence[MapRow]) -> list[Grid]:
    """Return the tables of maps: of all photos, of those named rightly, and of the others; none without rows."""
    grids = []
    for photos, title in PHOTOS.items():
        chosen = sorted((row for row in rows if row.photos == photos), key=_place)
        gaussian = next((row.figures for row in chosen if row.name == GAUSSIAN), {})
        lines = [_line(row, gaussian) for row in chosen]
        if lines:
            grids.append(Grid(title, used(MEASURES, lines), lines))
    return grids


def faithfulness_grid(figures: Mapping[str, Figure | float]) -> Grid | None:
    """Return the table of faithfulness, from figures named `MEASURE_MAP`; None without any."""
    found: dict[str, dict[str, Figure]] = {}
    for name, figure in figures.items():
        measure = _faithfulness_of(name)
        if measure and isinstance(figure, Figure):
            found.setdefault(name.removeprefix(f"{measure}_"), {})[measure] = figure
    if not found:
        return None
    lines = [
        Line(map_name(kind), "", measured, kind in CHANCE, {}) for kind, measured in sorted(found.items(), key=_order)
    ]
    return Grid("Faithfulness", used(FAITHFULNESS, lines), lines)


def sanity_grid(figures: Mapping[str, Figure | float]) -> Grid | None:
    """Return the table of the cascade of random weights, from figures named `sanity_LAYER`; None without any."""
    column = {"rank": Word("rank correlation", "Of the map with the trained network's: 1 is unchanged.", percent=False)}
    lines = [
        Line(name.removeprefix(SANITY), "", {"rank": figure}, chance=False, marks={})
        for name, figure in figures.items()
        if name.startswith(SANITY) and isinstance(figure, Figure)
    ]
    return Grid("Sanity", column, lines) if lines else None


def further_grid(figures: Mapping[str, Figure | float]) -> Grid | None:
    """Return the table of figures that stand nowhere else; None without any."""
    known = FIGURES.keys() | HEADLINES.keys() | {"box_area", "zero_maps"}
    column = {"value": Word("value", "", percent=False)}
    lines = [
        Line(name.replace("_", " "), "", {"value": figure}, chance=False, marks={})
        for name, figure in figures.items()
        if isinstance(figure, Figure)
        and name not in known
        and not name.startswith((SANITY, *OF_MARKS))
        and not _faithfulness_of(name)
    ]
    return Grid("Further figures", column, lines) if lines else None


def verdict(figure: Figure, chance: Figure) -> str:
    """Return what two intervals say of a figure beside chance."""
    if figure.low > chance.high:
        return "above chance"
    return "below chance" if figure.high < chance.low else "not clearly different from chance"


def _line(row: MapRow, gaussian: Mapping[str, Figure]) -> Line:
    marks = {}
    for measure, figure in row.figures.items():
        if row.name not in CHANCE and "_minus_" not in row.name and measure in gaussian:
            marks[measure] = VERDICTS[verdict(figure, gaussian[measure])]
    return Line(map_name(row.name), row.layer, row.figures, row.name in CHANCE, marks)


def _faithfulness_of(name: str) -> str | None:
    """Return the measure that begins a figure's name: the longest, because `road` begins `road_morf`, too."""
    fitting = [measure for measure in FAITHFULNESS if name.startswith(f"{measure}_")]
    return max(fitting, key=len, default=None)


def used(columns: Mapping[str, Word], lines: Sequence[Line]) -> dict[str, Word]:
    """Return the columns in which some line has a figure."""
    return {name: word for name, word in columns.items() if any(name in line.figures for line in lines)}


def _place(row: MapRow) -> tuple[bool, int]:
    """Return where a line stands: kinds of maps together, chance behind."""
    kinds = list(MAPS)
    return row.name in CHANCE, kinds.index(row.name) if row.name in kinds else len(kinds)


def _order(item: tuple[str, Mapping[str, Figure]]) -> tuple[bool, bool]:
    return item[0] in CHANCE, "_minus_" in item[0]
