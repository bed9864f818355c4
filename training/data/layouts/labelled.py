"""A user's own photos, with a `labels.csv` beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from training.data.layouts.labels import shown_labels
from training.data.layouts.tables import Entry, must_exist, read_csv, without_doubles
from training.data.samples import Box, Dataset, Sample, hold_out
from training.errors import DatasetError

SPLITS = {"train": "train", "val": "train", "valid": "train", "trainval": "train", "test": "test", "": ""}
"""What the column `split` may say → part."""


def load_csv(folder: Path) -> Dataset:
    """Read `labels.csv`: columns `file` and `class_name`, and optionally `class_id`, `split` and `x1,y1,x2,y2`.

    Paths are relative to the folder, or to `images/` in it. Without a `split` column, a fifth of every class is test.

    Raises:
        DatasetError: names file and row.
    """
    path = must_exist(folder / "labels.csv")
    rows = read_csv(path)
    if not rows or not {"file", "class_name"} <= set(rows[0]):
        raise DatasetError(f"{path}: expected a header with the columns file and class_name, and rows below")
    entries, notices = without_doubles([_entry(path, number, row) for number, row in enumerate(rows, 2)])
    order = _ids(entries)
    names = sorted(order, key=lambda name: (order[name], name))
    index = {name: position for position, name in enumerate(names)}
    images = folder / "images" if (folder / "images" / entries[0].file).is_file() else folder
    samples = [Sample(images / entry.file, index[entry.name], _box(entry)) for entry in entries]
    train, test = _divided(entries, samples)
    first = {entry.name: entry.place for entry in reversed(entries)}
    return Dataset(
        folder.resolve().name,
        shown_labels(names, [first[name] for name in names]),
        tuple(train),
        tuple(test),
        licence="as the user's own data",
        notices=tuple(notices),
    )


def _entry(path: Path, number: int, row: Mapping[str, str]) -> Entry:
    place = f"{path}, row {number}"
    split = row.get("split", "").strip().lower()
    if split not in SPLITS:
        raise DatasetError(f"{place}: column split has {split!r}; expected train or test")
    for name in ("file", "class_name"):
        if not row[name].strip():
            raise DatasetError(f"{place}: column {name} is empty")
    return Entry(row["file"], row["class_name"], SPLITS[split], place, row)


def _ids(entries: Sequence[Entry]) -> dict[str, int]:
    """Return the number of every class, 0 where none is given."""
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


def _divided(entries: Sequence[Entry], samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    if not any(entry.part for entry in entries):
        return hold_out(samples, 0.2, seed=0)
    pairs = list(zip(entries, samples, strict=True))
    train = [sample for entry, sample in pairs if entry.part != "test"]
    return train, [sample for entry, sample in pairs if entry.part == "test"]


def _box(entry: Entry) -> Box | None:
    sides = [entry.row.get(name) or "" for name in ("x1", "y1", "x2", "y2")]
    if not all(sides):
        return None
    try:
        left, top, right, bottom = map(float, sides)
    except ValueError as error:
        raise DatasetError(f"{entry.place}: a side of the box is no number ({error})") from error
    return left, top, right, bottom
