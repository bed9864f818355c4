"""Tables of photos of unknown things: how well each score distinguishes them, and how many are called unknown."""

from collections.abc import Sequence

from training.evaluation.report.grids import Grid, Line
from training.evaluation.report.words import SCORES, UNKNOWN
from training.evaluation.unknown import NOVELTY, UnknownResult


def unknown_grids(found: Sequence[UnknownResult]) -> list[Grid]:
    """Return a table for each folder, a line for each score, the model's own first."""
    return [Grid(f"Photos of {one.name}", UNKNOWN, _lines(one)) for one in found]


def _lines(one: UnknownResult) -> list[Line]:
    shares = {"above": one.above, "known_above": one.known_above}
    own = {name: figure for name, figure in shares.items() if figure is not None}
    return [
        Line(SCORES[score], "", {**row, **(own if score == NOVELTY else {})}, chance=False, marks={})
        for score, row in one.rows.items()
    ]
