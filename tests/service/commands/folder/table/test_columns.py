"""Columns follow from the answer's members."""

from service.commands.folder.table.columns import columns_of
from service.http.api.schemas import ClassifyOptions

_MARK = {"name": "red crown", "part": "crown", "seen": 0.9, "typical": None, "at": [3.0, 4.5], "evidence": 2.0}
ANSWER = {
    "predictions": [{"label": "Red bird", "index": 0, "probability": 0.9}] * 2,
    "accepted": True,
    "marks": [_MARK],
    "model": {},
    "filename": None,
    "width": 40,
    "height": 20,
    "request_id": "",
}


def test_columns_of_an_answer() -> None:
    """Values are columns, objects in a list numbered columns; what is the run's own is left out."""
    columns = columns_of(ANSWER, ClassifyOptions(top_k=5, threshold=0.5, marks=2), 2)
    of_marks = [f"marks_{n}_{name}" for n in (1, 2) for name in ("name", "part", "seen", "typical", "at", "evidence")]
    assert [
        "path", "code", "label_1", "index_1", "probability_1", "label_2", "index_2", "probability_2", "accepted",
        *of_marks, "width", "height", "detail",
    ] == [column.name for column in columns]  # fmt: skip
    row = {"path": "a.png", **ANSWER}
    cells = {column.name: column.cell(row) for column in columns if column.cell(row) is not None}
    assert ("Red bird", True, "3.0 4.5", 40) == tuple(
        cells[name] for name in ("label_2", "accepted", "marks_1_at", "width")
    )
    assert not {"code", "detail", "marks_1_typical", "marks_2_name"} & cells.keys()


def test_cells_have_the_members_types() -> None:
    """As the schema declares them."""
    kinds = {column.name: column.kind for column in columns_of(ANSWER, ClassifyOptions(top_k=1), 9)}
    assert (str, int, float, bool) == tuple(kinds[n] for n in ("label_1", "index_1", "probability_1", "accepted"))
