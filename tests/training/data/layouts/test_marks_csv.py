"""`marks.csv` as users write it: read beside class folders of any layout, errors name row and column."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from training.data.datasets import load_dataset
from training.data.marks import Mark, Marks
from training.errors import DatasetError

TABLES = Path(__file__).parents[3] / "data"
Photo = Callable[..., Path]


@pytest.fixture
def crows(photo: Photo, tmp_path: Path) -> Path:
    """Return a folder of two classes, `Carrion_Crow` and `gull`."""
    for name in ("Carrion_Crow/a", "Carrion_Crow/b", "gull/a", "gull/b"):
        photo(tmp_path / "birds" / f"{name}.png")
    return tmp_path / "birds"


def write(folder: Path, text: str) -> Path:
    """Write the table into a folder."""
    (folder / "marks.csv").write_text(text, encoding="utf-8")
    return folder


def test_a_table_beside_class_folders_is_read(crows: Path) -> None:
    """In the order of the classes, whatever the order of the rows; an empty cell is unknown."""
    write(crows, "class,crown: yellow,Upper_wing : jet  black\ngull,0.25,\n\nCarrion Crow,0,1\n")
    dataset = load_dataset(crows)
    assert dataset.labels == ("Carrion Crow", "gull")
    assert dataset.marks is not None
    assert dataset.marks.marks == (
        Mark("yellow crown", "crown", "yellow", "crown: yellow"),
        Mark("jet black Upper wing", "Upper wing", "jet black", "Upper wing: jet black"),
    )
    np.testing.assert_array_equal([[0, 1], [0.25, np.nan]], dataset.marks.table)
    assert not any("marks.csv" in notice or ".csv" in notice for notice in dataset.notices)


def test_without_a_table_there_are_no_marks(crows: Path) -> None:
    """Nothing is made up."""
    assert load_dataset(crows).marks is None


def test_a_class_may_be_named_as_its_folder(crows: Path) -> None:
    """`Carrion_Crow` is `Carrion Crow`."""
    marks = load_dataset(write(crows, "class,crown: yellow\nCarrion_Crow,0.5\ngull,1\n")).marks
    assert marks is not None
    assert [[0.5], [1]] == marks.table.tolist()


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffclass;bill: red;crown: black\ngull;0,5;1\nCarrion Crow;;0\n",
        "\ufeffClass\tbill: red\tcrown: black\r\ngull\t0.5\t1\r\nCarrion Crow\t\t0\r\n",
        '"crown: black",species,"bill: red"\n1,"gull"," 0.5 "\n0,"Carrion Crow"\n',
    ],
)
def test_spreadsheets_write_it_in_their_way(crows: Path, text: str) -> None:
    """A byte order mark, semicolons with decimal commas, tabs, quotes, a class column elsewhere, a short row."""
    marks = load_dataset(write(crows, text)).marks
    assert marks is not None
    shares = dict(zip([mark.name for mark in marks.marks], marks.table.T.tolist(), strict=True))
    assert [0, 1] == shares["black crown"]
    assert np.isnan(shares["red bill"][0])
    assert 0.5 == shares["red bill"][1]


def test_a_class_without_a_row_is_unknown_and_noticed(crows: Path) -> None:
    """Its marks are masked in training, and the user knows."""
    dataset = load_dataset(write(crows, "class,crown: yellow\ngull,1\n"))
    assert dataset.marks is not None
    np.testing.assert_array_equal([[np.nan], [1]], dataset.marks.table)
    assert any("lacks 1 classes, whose marks are unknown: Carrion Crow" in notice for notice in dataset.notices)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,a: b\ngulls,1\n", r"row 2, column 1 \(class\): the data has no class 'gulls'; did you mean 'gull'\?"),
        ("class,a: b\n,1\n", r"row 2, column 1 \(class\): the name of the class is empty"),
        ("class,a: b\ngull,1\nCarrion Crow,yes\n", r"row 3, column 2 \(a: b\): 'yes' is no number from 0 to 1"),
        ("class,a: b\ngull,80\n", r"row 2, column 2 \(a: b\): 80 is not from 0 to 1"),
        ("class,a: b\ngull,-0.1\n", r"row 2, column 2 \(a: b\): -0.1 is not from 0 to 1"),
        ("class,a: b\ngull,nan\n", r"row 2, column 2 \(a: b\): nan is not from 0 to 1"),
        ("class,a: b,a: c\ngull,1,\nCarrion Crow,0, \n", r"row 1, column 3 \(a: c\): no class has a value"),
        ("class,a: b,A:B\ngull,1,1\n", r"row 1, column 3 \('A:B'\): the same mark as in column 2"),
        ("class,a: b\ngull,1\ngull,0\n", r"row 3, column 1 \(class\): the class 'gull' is also in row 2"),
        (
            "class,a: b\ngull,1\nCarrion_Crow,0\nCarrion Crow,0\n",
            r"row 4, column 1 \(class\): the class 'Carrion Crow' is also in row 3",
        ),
        ("class,yellow\ngull,1\n", r"row 1, column 2 \('yellow'\): expected `part: value`"),
        ("class,a:\ngull,1\n", r"row 1, column 2 \('a:'\): expected `part: value`"),
        ("class,: b\ngull,1\n", r"row 1, column 2 \(': b'\): expected `part: value`"),
        ("class,a: b,\ngull,1,\n", r"row 1, column 3 \(''\): the name of the mark is empty"),
        (
            "class,a: b\x07\ngull,1\n",
            r"row 1, column 2 \(.*\): the name of the mark holds the control character U\+0007",
        ),
        ('class,"a: b\nc"\ngull,1\n', r"row 1, column 2 \(.*\): the name of the mark holds a line break"),
        ("class\ngull\n", r"row 1: there is no column of a mark"),
        ("a: b,a: c\n1,1\n", r"row 1: expected a column named class"),
        ("", r"row 1: expected a column named class"),
        ("class,a: b\n", r"there is no row of a class below the header"),
        ("class,a: b\ngull,1,0\n", r"row 2, column 3: 3 cells, but 2 columns in row 1"),
        ('class,a: b\n"gull,1\n', r"marks.csv cannot be read"),
    ],
)
def test_a_wrong_table_is_refused(crows: Path, text: str, message: str) -> None:
    """The message names file, row and column."""
    write(crows, text)
    with pytest.raises(DatasetError, match=rf"marks\.csv.*{message}" if "cannot" not in message else message):
        load_dataset(crows)


def test_parts_and_inner_folders_have_their_table_above(photo: Photo, tmp_path: Path) -> None:
    """Beside the parts, beside the class folders within an archive's own folder, beside `images`; two are refused."""
    root = tmp_path / "set"
    for name in ("train/a/1", "train/b/1", "test/a/1", "test/b/1"):
        photo(root / "archive" / f"{name}.png")
    table = "class,x: y\na,1\n"
    write(root / "archive", table)
    assert isinstance(load_dataset(root).marks, Marks)
    write(root, table)
    with pytest.raises(DatasetError, match=r"one marks\.csv is expected, not two"):
        load_dataset(root)


def test_a_list_of_photos_has_its_table_beside_it(photo: Photo, tmp_path: Path) -> None:
    """`labels.csv` and `marks.csv` in one folder; also where the user names its folder of photos."""
    for name in ("p", "q"):
        photo(tmp_path / "images" / f"{name}.png")
    (tmp_path / "labels.csv").write_text("file,class_name,split\np.png,Carrion_Crow,train\nq.png,gull,train\n")
    write(tmp_path, "class,x: y\ngull,1\nCarrion_Crow,0\n")
    for folder in (tmp_path, tmp_path / "images"):
        marks = load_dataset(folder).marks
        assert marks is not None
        assert [[0], [1]] == marks.table.tolist()


def test_two_marks_of_one_name_are_refused() -> None:
    """A name is how a mark is asked for."""
    twice = (Mark("red tail", "tail", "red", "tail: red"), Mark("red tail", "red tail", "", "red tail"))
    with pytest.raises(DatasetError, match=r"two marks are named 'red tail'"):
        Marks(twice, np.zeros((2, 2)))


def test_butterflies_have_marks(data_dir: Path, tmp_path: Path) -> None:
    """A table of real species, in a user's own words, beside their real photos."""
    for path in (data_dir / "leeds_butterfly").iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "marks.csv").symlink_to(TABLES / "leeds_butterfly_marks.csv")
    dataset = load_dataset(tmp_path)
    assert dataset.marks is not None
    assert (10, 24) == dataset.marks.table.shape
    typical = {
        label: {mark.name for mark, share in zip(dataset.marks.marks, row, strict=True) if share >= 0.9}
        for label, row in zip(dataset.labels, dataset.marks.table, strict=True)
    }
    assert {"black wing veins", "white-dotted wing margin"} <= typical["Danaus plexippus"]
    assert {"white forewing", "white hindwing"} == typical["Pieris rapae"]
    assert 10 == len(set(map(frozenset, typical.values()))), "no two species are alike"
