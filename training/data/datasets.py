"""Read the data set in a folder: find out its layout, and check it.

Nothing is ever downloaded. Messages name a missing or contradictory file and what was expected.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from training.data.layouts.aircraft import load_aircraft
from training.data.layouts.cars import load_cars
from training.data.layouts.class_tables import table_beside
from training.data.layouts.cub import load_cub
from training.data.layouts.files import MARKS, TAXONOMY
from training.data.layouts.folders import load_folder
from training.data.layouts.listed import load_csv, load_tables
from training.data.layouts.marks_csv import marks_beside
from training.data.layouts.places import find_place
from training.data.layouts.taxonomy_csv import read_taxonomy
from training.data.samples import Dataset
from training.errors import DatasetError

LOADERS: dict[str, Callable[[Path], Dataset]] = {
    "cub": load_cub,
    "cars": load_cars,
    "aircraft": load_aircraft,
    "csv": load_csv,
    "tables": load_tables,
    "folder": load_folder,
}
"""Layout → its reader."""
PUBLISHED = ("cub", "cars", "aircraft")
"""Layouts whose readers do not look for a table of marks."""


def load_dataset(folder: Path, kind: str = "auto", layout: str = "auto") -> Dataset:
    """Read a data set's lists.

    Args:
        folder: of the data set, or one above it, as archives create them.
        kind: `cub`, `cars`, `aircraft`, `csv` or `folder`; `auto` recognises it by its files.
        layout: of class folders, as for `training.data.layouts.splits.divide`.

    Raises:
        DatasetError: no data set, or a file is missing, damaged or contradictory.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder")
    if layout != "auto":
        return _checked(_with_taxonomy(load_folder(folder, layout), folder))
    if kind == "folder":
        dataset = load_csv(folder) if (folder / "labels.csv").is_file() else load_folder(folder)
        return _checked(_with_taxonomy(dataset, folder))
    place = find_place(folder, kind)
    dataset = LOADERS[place.kind](folder if place.kind == "cars" else place.folder)
    dataset = _with_marks(dataset, place.folder) if place.kind in PUBLISHED else dataset
    return _checked(_with_taxonomy(dataset, folder))


def _with_marks(dataset: Dataset, folder: Path) -> Dataset:
    """Return a published data set with the table of marks that a user has put beside its lists or photos, if any.

    Raises:
        DatasetError: the table cannot be used, or the data set has one of its own.
    """
    above = {sample.path.parent for sample in (*dataset.train, *dataset.test)}
    marks, gaps = marks_beside(folder, dataset.labels, dataset.labels, above)
    if marks is None:
        return dataset
    if dataset.marks is not None:
        raise DatasetError(
            f"{folder}: one table of marks is expected, not both {MARKS} and the attributes of the data set"
        )
    return replace(dataset, marks=marks, notices=(*dataset.notices, *gaps))


def _with_taxonomy(dataset: Dataset, folder: Path) -> Dataset:
    """Return a data set with the table of taxa that lies beside its lists or class folders, if any.

    Raises:
        DatasetError: the table cannot be used, or there are two.
    """
    above = {sample.path.parent.parent for sample in (*dataset.train, *dataset.test)}
    path = table_beside(folder, TAXONOMY, above)
    return dataset if path is None else replace(dataset, taxonomy=read_taxonomy(path, dataset.labels))


def _checked(dataset: Dataset) -> Dataset:
    """Refuse a data set that cannot be used, and add notices of its oddities."""
    if dataset.num_classes < 2:
        raise DatasetError(f"{dataset.name}: {dataset.num_classes} classes found; a classifier needs at least two")
    for sample in (*dataset.train, *dataset.test):
        if not 0 <= sample.label < dataset.num_classes:
            raise DatasetError(f"{sample.path}: class {sample.label + 1} of {dataset.num_classes} classes")
    missing = [sample.path for sample in (*dataset.train, *dataset.test) if not sample.path.is_file()]
    if missing:
        raise DatasetError(f"{len(missing)} images are missing; first expected: {missing[0]}")
    count = Counter(sample.label for sample in dataset.train)
    notices = list(dataset.notices)
    if not dataset.train:
        notices.append("no training images: networks can be evaluated on it, not trained")
    elif empty := [label for index, label in enumerate(dataset.labels) if not count[index]]:
        notices.append(f"{len(empty)} classes have no training image: {', '.join(empty[:5])}")
    if single := [label for index, label in enumerate(dataset.labels) if count[index] == 1]:
        notices.append(f"{len(single)} classes have one training image, none held out: {', '.join(single[:5])}")
    if not dataset.test:
        notices.append("no test images: `evaluate` can use the held-out part only")
    return replace(dataset, notices=tuple(notices))
