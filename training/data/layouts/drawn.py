"""`train.csv`, `val.csv` and `test.csv`, as Kaggle's FGVC-Aircraft and many others keep a division of photos."""

import csv
from pathlib import Path

from training.data.layouts.files import read_tree
from training.data.layouts.labels import shown_labels
from training.data.layouts.places import CLASS_COLUMNS, FILE_COLUMNS, column
from training.data.layouts.tables import must_exist
from training.data.samples import Dataset, Sample
from training.errors import DatasetError

Rows = list[tuple[str, str]]
"""File and class."""


def load_tables(folder: Path) -> Dataset:
    """Read one table a part; rows name photos by file, wherever below the folder these lie.

    Raises:
        DatasetError: a table is damaged, or its photos cannot be found.
    """
    tables = {part: folder / f"{part}.csv" for part in ("train", "val", "test")}
    rows = {part: _rows(must_exist(path)) for part, path in tables.items() if part != "val" or path.is_file()}
    names = sorted({name for part in rows.values() for _, name in part})
    index = {name: label for label, name in enumerate(names)}
    places = _places(folder)
    samples = {
        part: [Sample(_found(folder, file, places, tables[part]), index[name]) for file, name in part_rows]
        for part, part_rows in rows.items()
    }
    notices = ("val.csv is added to the training part, of which the recipe holds out its own share",)
    return Dataset(
        folder.resolve().name,
        shown_labels(names),
        (*samples["train"], *samples.get("val", ())),
        tuple(samples["test"]),
        licence="as the user's own data",
        notices=notices if "val" in samples else (),
    )


def _rows(path: Path) -> Rows:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = list(reader.fieldnames or ())
            file_column, class_column = column(header, FILE_COLUMNS), column(header, CLASS_COLUMNS)
            if file_column is None or class_column is None:
                raise DatasetError(f"{path}: expected a header with a column of files and one of classes")
            return [
                (_cell(row, file_column, path, n), _cell(row, class_column, path, n)) for n, row in enumerate(reader, 2)
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def _cell(row: dict[str, str | None], name: str, path: Path, number: int) -> str:
    value = (row[name] or "").strip()
    if not value:
        raise DatasetError(f"{path}, row {number}: column {name} is empty")
    return value


def _places(folder: Path) -> dict[str, list[Path]]:
    """Return the photos below, by file name."""
    places: dict[str, list[Path]] = {}
    for path in read_tree(folder).all_photos():
        places.setdefault(path.name, []).append(path)
    return places


def _found(folder: Path, file: str, places: dict[str, list[Path]], table: Path) -> Path:
    """Return the photo that a row names: by its path, else by its name where there is but one."""
    if (folder / file).is_file():
        return folder / file
    found = places.get(Path(file).name, [])
    if len(found) > 1:
        part = [path for path in found if table.stem in {above.name.lower() for above in path.parents}]
        found = part if len(part) == 1 else found
    if len(found) > 1:
        raise DatasetError(f"{table}: {file} may be {found[0]} or {found[1]}")
    return found[0] if found else folder / file
