"""What a network answered for every photo, as tables that people and programs read: CSV and Parquet."""

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from training.evaluation.evaluate import Evaluation

Columns = dict[str, list[Any]]


def image_columns(evaluation: Evaluation, folder: Path) -> Columns:
    """Return the columns of the table, a row a photo.

    Args:
        evaluation: the answers.
        folder: of the data set: photos below it are named by their path in it, the others by their whole path.

    Returns:
        `file`, `label`, `predicted`, `probability`, `correct`, and the probability of every class as `p: LABEL`.
    """
    names, probabilities = evaluation.names, evaluation.probabilities
    best = probabilities.argmax(axis=1)
    root = folder.resolve()
    columns: Columns = {
        "file": [_relative(sample.path, root) for sample in evaluation.samples],
        "label": [names[label] for label in evaluation.labels],
        "predicted": [names[index] for index in best],
        "probability": probabilities.max(axis=1).tolist(),
        "correct": evaluation.right.tolist(),
    }
    return columns | {f"p: {name}": probabilities[:, index].tolist() for index, name in enumerate(names)}


def as_csv(columns: Columns) -> str:
    """Return the table as CSV with a header, probabilities with six digits behind the point."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow([f"{value:.6f}" if isinstance(value, float) else value for value in row])
    return text.getvalue()


def as_parquet(columns: Columns) -> bytes:
    """Return the table as Parquet, probabilities as 32-bit floats."""
    arrays = {name: pa.array(values, _type_of(name)) for name, values in columns.items()}
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays), buffer, compression="zstd")
    return buffer.getvalue()


def _relative(path: Path, root: Path) -> str:
    whole = path.resolve()
    return (whole.relative_to(root) if whole.is_relative_to(root) else whole).as_posix()


def _type_of(name: str) -> pa.DataType:
    if name == "correct":
        return pa.bool_()
    return pa.float32() if name == "probability" or name.startswith("p: ") else pa.string()
