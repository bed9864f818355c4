"""Photos listed in tables: a user's `labels.csv`, or `train.csv`, `val.csv` and `test.csv` as Kaggle has them."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from training.data.layouts.files import read_tree
from training.data.layouts.labels import shown_labels
from training.data.layouts.marks_csv import marks_beside
from training.data.layouts.places import CLASS_COLUMNS, FILE_COLUMNS, column
from training.data.layouts.tables import Entry, must_exist, read_csv, without_doubles
from training.data.samples import Box, Dataset, Sample, hold_out
from training.errors import DatasetError

SPLITS = {"train": "train", "val": "train", "valid": "train", "trainval": "train", "test": "test", "": ""}
"""Value of the column `split` → part."""


def load_csv(folder: Path) -> Dataset:
    """Read `labels.csv`: columns `file` and `class_name`, and optionally `class_id`, `split` and `x1,y1,x2,y2`.

    Paths are relative to the folder, or to `images/` in it. Without a `split` column, a fifth of every class is test.

    Raises:
        DatasetError: names file and row.
    """
    path = must_exist(folder / "labels.csv")
    rows = read_csv(path)
    if not {"file", "class_name"} <= set(next(iter(rows.values()), ())):
        raise DatasetError(f"{path}: expected a header with the columns file and class_name, and rows below")
    listed = _entries(path, rows, "file", "class_name")
    entries, notices = without_doubles([entry._replace(part=_part(entry)) for entry in listed])
    images = folder / "images" if (folder / "images" / entries[0].file).is_file() else folder
    return _dataset(folder, entries, notices, lambda entry: images / entry.file)


def load_tables(folder: Path) -> Dataset:
    """Read one table per part; rows name photos by file, which may be anywhere below the folder.

    Raises:
        DatasetError: a table is damaged, or its photos cannot be found.
    """
    entries: list[Entry] = []
    notices: list[str] = []
    for part in ("train", "val", "test"):
        path = folder / f"{part}.csv"
        if part == "val" and not path.is_file():
            continue
        rows = read_csv(must_exist(path))
        header = list(next(iter(rows.values()), ()))
        file, name = column(header, FILE_COLUMNS), column(header, CLASS_COLUMNS)
        if file is None or name is None:
            raise DatasetError(f"{path}: expected a header with a column of files and one of classes, and rows below")
        listed = [
            entry._replace(file=entry.file.strip(), part=part, row={}) for entry in _entries(path, rows, file, name)
        ]
        found, doubled = without_doubles(listed)
        entries += found
        notices += doubled
    if (folder / "val.csv").is_file():
        notices.append("val.csv is added to the training part, of which the recipe holds out its own share")
    by_name: dict[str, list[Path]] = {}
    for photo in read_tree(folder).all_photos():
        by_name.setdefault(photo.name, []).append(photo)
    return _dataset(folder, entries, notices, lambda entry: _found(folder, entry, by_name))


def _dataset(
    folder: Path, entries: Sequence[Entry], notices: Sequence[str], path_of: Callable[[Entry], Path]
) -> Dataset:
    """Return the data set of some rows; classes are sorted by number, if any, and name."""
    order = _ids(entries)
    names = sorted(order, key=lambda name: (order[name], name))
    index = {name: position for position, name in enumerate(names)}
    first = {entry.name: entry.place for entry in reversed(entries)}
    samples = [Sample(path_of(entry), index[entry.name], _box(entry)) for entry in entries]
    if any(entry.part for entry in entries):
        test = [sample for entry, sample in zip(entries, samples, strict=True) if entry.part == "test"]
        train = [sample for entry, sample in zip(entries, samples, strict=True) if entry.part != "test"]
    else:
        train, test = hold_out(samples, 0.2, seed=0)
    labels = shown_labels(names, [first[name] for name in names])
    marks, gaps = marks_beside(folder, names, labels)
    return Dataset(
        folder.resolve().name,
        labels,
        tuple(train),
        tuple(test),
        licence="as the user's own data",
        notices=(*notices, *gaps),
        marks=marks,
    )


def _entries(path: Path, rows: Mapping[int, Mapping[str, str]], file: str, name: str) -> list[Entry]:
    """Return the rows of a table, given its columns of files and classes."""
    entries = []
    for number, row in rows.items():
        place = f"{path}, row {number}"
        for title in (file, name):
            if not row[title].strip():
                raise DatasetError(f"{place}: column {title} is empty")
        entries.append(Entry(row[file], row[name], "", place, row))
    return entries


def _part(entry: Entry) -> str:
    """Return the part in the column `split` of a row of `labels.csv`."""
    split = entry.row.get("split", "").strip().lower()
    if split not in SPLITS:
        raise DatasetError(f"{entry.place}: column split has {split!r}; expected train or test")
    return SPLITS[split]


def _ids(entries: Sequence[Entry]) -> dict[str, int]:
    """Return the number of every class, 0 where there is none."""
    order: dict[str, tuple[int, str]] = {}
    for entry in entries:
        try:
            number = int(entry.row.get("class_id") or 0)
        except ValueError as error:
            raise DatasetError(f"{entry.place}: class_id is no whole number ({error})") from error
        known, place = order.setdefault(entry.name, (number, entry.place))
        if known != number:
            raise DatasetError(f"{entry.place}: class {entry.name!r} has class_id {number}, and {known} in {place}")
    return {name: number for name, (number, _) in order.items()}


def _box(entry: Entry) -> Box | None:
    sides = [entry.row.get(name) or "" for name in ("x1", "y1", "x2", "y2")]
    if not all(sides):
        return None
    try:
        left, top, right, bottom = map(float, sides)
    except ValueError as error:
        raise DatasetError(f"{entry.place}: a side of the box is no number ({error})") from error
    if not (-math.inf < left < right < math.inf and -math.inf < top < bottom < math.inf):
        raise DatasetError(f"{entry.place}: the box x1,y1,x2,y2 = {','.join(sides)} has no area")
    return left, top, right, bottom


def _found(folder: Path, entry: Entry, by_name: Mapping[str, Sequence[Path]]) -> Path:
    """Return the photo of a row: by its path, else by its name if that is unique below the folder or in its part."""
    if (folder / entry.file).is_file():
        return folder / entry.file
    found = by_name.get(Path(entry.file).name, [])
    if len(found) > 1:
        part = [path for path in found if entry.part in {above.name.lower() for above in path.parents}]
        found = part if len(part) == 1 else found
    if len(found) > 1:
        raise DatasetError(f"{entry.place}: {entry.file} may be {found[0]} or {found[1]}")
    return found[0] if found else folder / entry.file
