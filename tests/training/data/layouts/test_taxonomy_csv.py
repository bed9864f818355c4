"""`taxonomy.csv` as users write it: read beside class folders of any layout, errors name row and column."""

from collections.abc import Callable
from pathlib import Path

import pytest

from model.contract.taxonomy import Taxonomy
from training.data.datasets import load_dataset
from training.data.layouts.taxonomy_csv import read_taxonomy
from training.errors import DatasetError

TABLES = Path(__file__).parents[3] / "data"
LABELS = ("Carrion Crow", "gull")
TAXA = Taxonomy(ranks=("genus", "family"), rows=(("Corvus", "Corvidae"), ("Larus", "Laridae")))
Photo = Callable[..., Path]


def write(folder: Path, text: str) -> Path:
    """Write the table into a folder."""
    (folder / "taxonomy.csv").write_text(text, encoding="utf-8")
    return folder / "taxonomy.csv"


@pytest.mark.parametrize("place", [".", "train", "../birds"])
def test_a_table_beside_class_folders_is_read(photo: Photo, tmp_path: Path, place: str) -> None:
    """In the order of the classes, and no word of it among files that are no photos."""
    for name in ("train/Carrion_Crow/a", "train/gull/a", "test/Carrion_Crow/b", "test/gull/b"):
        photo(tmp_path / "birds" / f"{name}.png")
    write(tmp_path / "birds" / place, "class,genus,family\ngull,Larus,Laridae\nCarrion Crow,Corvus,Corvidae\n")
    dataset = load_dataset(tmp_path / "birds")
    assert TAXA == dataset.taxonomy
    assert not any(".csv" in notice for notice in dataset.notices)


def test_one_beside_the_lists_of_a_published_data_set(cub_like: Path, tmp_path: Path) -> None:
    """Classes may be named with CUB's number; without a table there is no taxonomy."""
    assert load_dataset(cub_like).taxonomy is None
    for entry in cub_like.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    write(tmp_path, "class;genus\n001.Red_Bird;Ruber\nGreen Bird;Viridis\n003.Blue_Bird;Caerulus\n")
    assert Taxonomy(ranks=("genus",), rows=(("Ruber",), ("Viridis",), ("Caerulus",))) == load_dataset(tmp_path).taxonomy


def test_two_tables_are_refused(photo: Photo, tmp_path: Path) -> None:
    """Nobody knows which one counts."""
    for name in ("train/crow/a", "train/gull/a"):
        photo(tmp_path / f"{name}.png")
    for place in (tmp_path, tmp_path / "train"):
        write(place, "class,genus\ncrow,Corvus\ngull,Larus\n")
    with pytest.raises(DatasetError, match=r"one taxonomy\.csv is expected, not two"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"row 1: expected a column named class"),
        ("genus,family\nCorvus,Corvidae\n", r"row 1: expected a column named class"),
        ("class\ngull\nCarrion Crow\n", r"row 1: there is no column of a rank"),
        ("class,genus,Genus\n", r"row 1, column 3 \('Genus'\): another column has this name"),
        ("class,genus,\n", r"row 1, column 3 \(''\): the name of the rank is empty"),
        ("class,genus\n", r"there is no row of a class"),
        ("class,genus\ngull,Larus\n", r"1 of 2 classes have no row: 'Carrion Crow'"),
        ("class,genus\ngul,Larus\n", r"row 2, column 1 \(class\): the data has no class 'gul'; did you mean 'gull'\?"),
        ("class,genus\ngull,Larus\n\nGull,Larus\n", r"row 4, column 1 \(class\): the data has no class 'Gull'"),
        ("class,genus\ngull,Larus\ngull,Larus\n", r"row 3, column 1 \(class\): the class 'gull' is also in row 2"),
        ("class,genus\n,Larus\n", r"row 2, column 1 \(class\): the name of the class is empty"),
        ("class,genus\ngull,Larus,Laridae\n", r"row 2, column 3: 3 cells, but 2 columns"),
        ("class,genus,family\ngull,Larus\nCarrion Crow,C,D\n", r"row 2, column 3 \(family\): the name of the taxon is"),
        ("class,genus\ngull,La\u202erus\nCarrion Crow,Corvus\n", r"row 2, column 2 \(genus\): the name of the taxon"),
        (
            "class,genus,family\ngull,Larus,Laridae\nCarrion Crow,Larus,Corvidae\n",
            r"row 3, column 3 \(family\): the genus 'Larus' is in 'Corvidae' here, and in 'Laridae' in row 2",
        ),
    ],
)
def test_mistakes_name_row_and_column(tmp_path: Path, text: str, message: str) -> None:
    """Classes too few, unknown or doubled, cells too many, empty or hostile, a genus in two families."""
    with pytest.raises(DatasetError, match=message):
        read_taxonomy(write(tmp_path, text), LABELS)


def test_the_birds_of_cub() -> None:
    """The table of the first 50 classes: three ranks that make a tree."""
    path = TABLES / "cub50_taxonomy.csv"
    labels = [line.partition(",")[0] for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    found = read_taxonomy(path, labels)
    assert ("genus", "family", "order") == found.ranks
    assert ("family", "Diomedeidae") == found.common([0, 1, 2], labels)
