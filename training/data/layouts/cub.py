"""CUB-200-2011, by its official lists."""

from pathlib import Path

from training.data.layouts.labels import shown_labels
from training.data.layouts.tables import NON_COMMERCIAL, read_numbers, read_table
from training.data.samples import Box, Dataset, Sample
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
    locations = folder / "parts" / "part_locs.txt"
    points = _points(locations) if locations.is_file() else {}
    for name, keys in (("image_class_labels.txt", labels), ("train_test_split.txt", is_train)):
        if missing := [paths[key] for key in paths if key not in keys]:
            raise DatasetError(f"{folder / name} has no line for {len(missing)} images of images.txt ({missing[0]}, …)")
    train: list[Sample] = []
    test: list[Sample] = []
    for key, path in paths.items():
        sample = Sample(folder / "images" / path, labels[key], boxes.get(key), tuple(points.get(key, ())))
        (train if is_train[key] else test).append(sample)
    return Dataset(
        f"CUB-200-2011 ({folder.name})",
        shown_labels(list(classes.values()), [folder / "classes.txt"] * len(classes), cub=True),
        tuple(train),
        tuple(test),
        licence=NON_COMMERCIAL,
    )


def _points(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Return the locations of the visible parts of every image."""
    points: dict[str, list[tuple[float, float]]] = {}
    try:
        for key, (_, x, y, visible) in read_table(path, 5):
            if visible == "1":
                points.setdefault(key, []).append((float(x), float(y)))
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from error
    return points


def _classes(path: Path) -> dict[int, str]:
    """Return names by number, in the order of the numbers."""
    try:
        return dict(sorted((int(key), name) for key, (name,) in read_table(path, 2, unique=True)))
    except ValueError as error:
        raise DatasetError(f"{path}: a class has no whole number ({error})") from error
