"""CUB-200-2011, by its official lists."""

from pathlib import Path

import numpy as np

from training.data.layouts.cub_marks import mark_of
from training.data.layouts.labels import shown_labels
from training.data.layouts.tables import NON_COMMERCIAL, read_numbers, read_table
from training.data.marks import Marks
from training.data.samples import Attributes, Box, Dataset, Sample
from training.errors import DatasetError


def load_cub(folder: Path) -> Dataset:
    """Read the official lists, with boxes and part locations where present.

    Raises:
        DatasetError: a list is missing, damaged, or does not fit the others.
    """
    paths = {key: value for key, (value,) in read_table(folder / "images.txt", 2, unique=True)}
    classes = _classes(folder / "classes.txt")
    index = {number: label for label, number in enumerate(classes)}
    classes_of = {key: number for key, (number,) in read_numbers(folder / "image_class_labels.txt", 2, int).items()}
    if unknown := sorted(set(classes_of.values()) - set(index)):
        raise DatasetError(f"{folder / 'classes.txt'} lacks class {unknown[0]} of image_class_labels.txt")
    labels = {key: index[number] for key, number in classes_of.items()}
    is_train = {key: value == "1" for key, (value,) in read_table(folder / "train_test_split.txt", 2, unique=True)}
    boxes: dict[str, Box] = {}
    if (folder / "bounding_boxes.txt").is_file():
        for key, (left, top, width, height) in read_numbers(folder / "bounding_boxes.txt", 5, float).items():
            boxes[key] = (left, top, left + width, top + height)
    part_names, parts = _parts(folder / "parts")
    for name, keys in (("image_class_labels.txt", labels), ("train_test_split.txt", is_train)):
        if missing := [paths[key] for key in paths if key not in keys]:
            raise DatasetError(f"{folder / name} has no line for {len(missing)} images of images.txt ({missing[0]}, …)")
    train: list[Sample] = []
    test: list[Sample] = []
    for key, path in paths.items():
        sample = Sample(folder / "images" / path, labels[key], boxes.get(key), tuple(parts.get(key, ())))
        (train if is_train[key] else test).append(sample)
    attributes = _attributes(folder, len(classes))
    return Dataset(
        f"CUB-200-2011 ({folder.name})",
        shown_labels(list(classes.values()), [folder / "classes.txt"] * len(classes), cub=True),
        tuple(train),
        tuple(test),
        licence=NON_COMMERCIAL,
        parts=part_names,
        attributes=attributes,
        marks=None if attributes is None else Marks(tuple(map(mark_of, attributes.names)), attributes.table),
    )


def _parts(folder: Path) -> tuple[tuple[str, ...], dict[str, list[tuple[int, float, float]]]]:
    """Return the names of the parts, and the visible parts of every image; nothing where the lists are missing."""
    if not (folder / "part_locs.txt").is_file():
        return (), {}
    names = {key: name for key, (name,) in read_table(folder / "parts.txt", 2, unique=True)}
    index = {key: number for number, key in enumerate(names)}
    found: dict[str, list[tuple[int, float, float]]] = {}
    for number, (key, (part, x, y, visible)) in enumerate(read_table(folder / "part_locs.txt", 5), 1):
        try:
            if visible == "1":
                found.setdefault(key, []).append((index[part], float(x), float(y)))
        except (KeyError, ValueError) as error:
            raise DatasetError(f"{folder / 'part_locs.txt'}, row {number}: no such part or place: {error}") from error
    return tuple(names.values()), found


def _attributes(folder: Path, classes: int) -> Attributes | None:
    """Return the table class × attribute, or None where there is none.

    Copies of CUB have the file of names in `attributes/`, in the data set's folder, or beside that folder.
    """
    path = folder / "attributes" / "class_attribute_labels_continuous.txt"
    lists = (folder / "attributes" / "attributes.txt", folder / "attributes.txt", folder.parent / "attributes.txt")
    names = next((place for place in lists if place.is_file()), None)
    if names is None or not path.is_file():
        return None
    columns = tuple(name for _, (name,) in read_table(names, 2, unique=True))
    try:
        table = np.loadtxt(path, ndmin=2) / 100
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from error
    if table.shape != (classes, len(columns)) or not ((table >= 0) & (table <= 1)).all():
        raise DatasetError(
            f"{path}: expected {classes} rows, one a class, of {len(columns)} percentages; found {table.shape}"
        )
    return Attributes(columns, table)


def _classes(path: Path) -> dict[int, str]:
    """Return names by number, in the order of the numbers."""
    try:
        return dict(sorted((int(key), name) for key, (name,) in read_table(path, 2, unique=True)))
    except ValueError as error:
        raise DatasetError(f"{path}: a class has no whole number ({error})") from error
