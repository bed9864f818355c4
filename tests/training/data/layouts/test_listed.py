"""`labels.csv` as users write it: errors name file and row."""

from collections.abc import Callable
from pathlib import Path

import pytest

from training.data.datasets import load_dataset
from training.errors import DatasetError

HEAD = "file,class_id,class_name,split\n"


@pytest.fixture
def table(photo: Callable[..., Path], tmp_path: Path) -> Path:
    """Return the path of the table, beside four photos."""
    for name in "pqrs":
        photo(tmp_path / f"{name}.png")
    return tmp_path / "labels.csv"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("p.png,1,a,\nq.png,2,,\n", r"labels.csv, row 3: column class_name is empty"),
        ("p.png,1,a,\n,2,b,\n", r"labels.csv, row 3: column file is empty"),
        ('p.png,1,a,\nq.png,2,"b\nc",\n', r"labels.csv, row 3: .* holds a line break"),
        ("p.png,1,a,\nq.png,2,b,\np.png,2,b,\n", r"p.png is in 'a' \(.*row 2\) and in 'b' \(.*row 4\)"),
        ("p.png,1,a,train\nq.png,2,b,\n./p.png,1,a,test\n", r"is in 'train' \(.*row 2\) and in 'test' \(.*row 4\)"),
        ("p.png,1,a,\nq.png,2,b,\nr.png,3,b,\n", r"row 4: class 'b' has class_id 3, and 2 in .*row 3"),
        ("p.png,one,a,\nq.png,2,b,\n", r"row 2: class_id is no whole number"),
        ("p.png,1,a,\nq.png,2,A ,\n", r"'a' \(.*row 2\) and 'A ' \(.*row 3\) differ by blanks"),
        ("p.png,1,a,\nq.png,2,b,dev\n", r"row 3: column split has 'dev'"),
        ("p.png,1\nq.png,2\n", r"row 2: column class_name is empty"),
    ],
)
def test_a_wrong_row_is_named(table: Path, rows: str, message: str) -> None:
    """The message names file, row and column."""
    table.write_text(HEAD + rows)
    with pytest.raises(DatasetError, match=message):
        load_dataset(table.parent)


def test_doubled_rows_are_used_once(table: Path) -> None:
    """A notice names them, and no photo is trained on twice."""
    table.write_text(HEAD + "p.png,1,a,train\nq.png,2,b,train\np.png,1,a,train\nr.png,1,a,test\n")
    dataset = load_dataset(table.parent)
    assert (len(dataset.train), len(dataset.test)) == (2, 1)
    assert any("1 rows are doubled" in notice and "row 4" in notice for notice in dataset.notices)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_spreadsheets_write_other_separators(table: Path, separator: str) -> None:
    """Semicolons or tabs, and a byte order mark."""
    rows = HEAD + "p.png,1,a,train\nq.png,2,b,test\n"
    table.write_text("\ufeff" + rows.replace(",", separator), encoding="utf-8")
    assert load_dataset(table.parent).labels == ("a", "b")


def test_another_encoding_is_named(table: Path) -> None:
    """A spreadsheet's Latin-1 is not UTF-8."""
    table.write_bytes((HEAD + "p.png,1,Kohlmeise Männchen,\n").encode("latin-1"))
    with pytest.raises(DatasetError, match=r"labels.csv cannot be read: 'utf-8'"):
        load_dataset(table.parent)
