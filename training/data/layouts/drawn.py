"""`train.csv`, `val.csv` and `test.csv`, as Kaggle's FGVC-Aircraft and many others keep a division of photos."""

from pathlib import Path

from training.data.layouts.files import read_tree
from training.data.layouts.labels import shown_labels
from training.data.layouts.places import CLASS_COLUMNS, FILE_COLUMNS, column
from training.data.layouts.tables import Entry, must_exist, read_csv, without_doubles
from training.data.samples import Dataset, Sample
from training.errors import DatasetError


def load_tables(folder: Path) -> Dataset:
    """Read one table a part; rows name photos by file, wherever below the folder these lie.

    Raises:
        DatasetError: a table is damaged, or its photos cannot be found.
    """
    tables = {part: folder / f"{part}.csv" for part in ("train", "val", "test")}
    parts = {part: path for part, path in tables.items() if part != "val" or path.is_file()}
    rows, notices = {}, []
    for part, path in parts.items():
        rows[part], doubled = without_doubles(_entries(must_exist(path), part))
        notices += doubled
    first = {entry.name: entry.place for part in rows.values() for entry in part}
    names = sorted(first)
    index = {name: label for label, name in enumerate(names)}
    places = _places(folder)
    samples = {
        part: [Sample(_found(folder, entry.file, places, tables[part]), index[entry.name]) for entry in entries]
        for part, entries in rows.items()
    }
    if "val" in samples:
        notices.append("val.csv is added to the training part, of which the recipe holds out its own share")
    return Dataset(
        folder.resolve().name,
        shown_labels(names, [first[name] for name in names]),
        (*samples["train"], *samples.get("val", ())),
        tuple(samples["test"]),
        licence="as the user's own data",
        notices=tuple(notices),
    )


def _entries(path: Path, part: str) -> list[Entry]:
    rows = read_csv(path)
    header = list(rows[0]) if rows else []
    file, name = column(header, FILE_COLUMNS), column(header, CLASS_COLUMNS)
    if file is None or name is None:
        raise DatasetError(f"{path}: expected a header with a column of files and one of classes, and rows below")
    entries = []
    for number, row in enumerate(rows, 2):
        if not row[file].strip() or not row[name].strip():
            raise DatasetError(f"{path}, row {number}: column {name if row[file].strip() else file} is empty")
        entries.append(Entry(row[file].strip(), row[name], part, f"{path}, row {number}"))
    return entries


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
