"""Tables of unknown photos, in the report and in the card."""

from tests.training.evaluation.report.conftest import Make
from training.evaluation.figures import Figure
from training.evaluation.report.card import summary
from training.evaluation.report.page import render
from training.evaluation.report.unknown_grids import unknown_grids
from training.evaluation.unknown import UnknownResult

FIGURE = Figure(0.91, 0.85, 0.95, 20)
ROW = {"auroc": FIGURE, "fpr95": Figure(0.2, 0.1, 0.3, 20)}


def _result(name: str = "<b>cats") -> UnknownResult:
    return UnknownResult(name, 20, {"novelty": ROW, "max_logit": ROW}, FIGURE, Figure(0.05, 0.02, 0.1, 400))


def test_a_line_for_each_score() -> None:
    """Shares above the threshold stand beside the model's own score alone."""
    (grid,) = unknown_grids([_result()])
    assert [("novelty", 4), ("largest logit", 2)] == [(line.name, len(line.figures)) for line in grid.lines]
    assert unknown_grids([]) == []


def test_report_and_card_show_them(make: Make) -> None:
    """A folder's name is plain text; without folders there is no section."""
    contents = make(unknown=[_result()])
    page = render(contents)
    assert "Photos of &lt;b&gt;cats" in page
    assert 'id="unknown"' in page
    assert 'id="unknown"' not in render(make())
    text = summary(contents.figures, list(contents.rows), contents.provenance, "6 photos", unknown=contents.unknown)
    assert "| largest logit | 0.910 (0.850–0.950, n = 20) | 20.0% (10.0–30.0, n = 20) | – | – |" in text
