"""Per-image tables: both forms hold the same rows, and every probability."""

import csv
import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.training.evaluation.test_tables import COUNT, evaluation
from training.evaluation.images import as_csv, as_parquet, image_columns


def test_rows_name_photo_and_classes() -> None:
    """A path relative to the data where the photo lies in it, true and predicted class, and all probabilities."""
    columns = image_columns(evaluation(), Path.cwd())
    assert ["file", "label", "predicted", "probability", "correct", "p: crow", "p: raven"] == list(columns)
    assert ("0.jpg", "crow", "raven", False) == tuple(
        columns[name][0] for name in ("file", "label", "predicted", "correct")
    )
    assert columns["p: crow"][0] + columns["p: raven"][0] == pytest.approx(1)
    assert Path("0.jpg").resolve().as_posix() == image_columns(evaluation(), Path("/elsewhere"))["file"][0]


def test_csv_and_parquet_hold_the_same() -> None:
    """Read back, both give the columns that went in."""
    columns = image_columns(evaluation(), Path.cwd())
    table = pq.read_table(io.BytesIO(as_parquet(columns))).to_pydict()
    rows = list(csv.DictReader(io.StringIO(as_csv(columns))))
    assert list(columns) == list(table) == list(rows[0])
    assert COUNT == len(rows) == len(table["file"])
    for index, line in enumerate(rows):
        assert (line["file"], line["correct"]) == (table["file"][index], str(table["correct"][index]))
        assert float(line["p: raven"]) == pytest.approx(table["p: raven"][index], abs=1e-6)
