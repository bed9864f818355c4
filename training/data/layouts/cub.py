"""CUB-200-2011, by its official lists."""

from pathlib import Path

from training.data.layouts.labels import shown_labels
from training.data.layouts.tables import NON_COMMERCIAL, read_table
from training.data.samples import Box, Dataset, Sample
from training.errors import DatasetError


def load_cub(folder: Path) -> Dataset:
    """Read CUB-200-2011's official lists, boxes, and parts where present."""
    paths = {key: value for key, (value,) in read_table(folder / "images.txt", 2)}
    labels = {key: int(value) - 1 for key, (value,) in read_table(folder / "image_class_labels.txt", 2)}
    is_train = {key: value == "1" for key, (value,) in read_table(folder / "train_test_split.txt", 2)}
    classes = [value for _, (value,) in read_table(folder / "classes.txt", 2)]
    boxes: dict[str, Box] = {}
    if (folder / "bounding_boxes.txt").is_file():
        boxes = {key: _corners(*map(float, row)) for key, row in read_table(folder / "bounding_boxes.txt", 5)}
    points: dict[str, list[tuple[float, float]]] = {}
    if (folder / "parts" / "part_locs.txt").is_file():
        for key, (_, x, y, visible) in read_table(folder / "parts" / "part_locs.txt", 5):
            if visible == "1":
                points.setdefault(key, []).append((float(x), float(y)))
    for name, keys in (("image_class_labels.txt", labels), ("train_test_split.txt", is_train)):
        if missing := [paths[key] for key in paths if key not in keys]:
            raise DatasetError(f"{folder / name} has no line for {len(missing)} images of images.txt ({missing[0]}, …)")
    train: list[Sample] = []
    test: list[Sample] = []
    for key, path in paths.items():
        sample = Sample(folder / "images" / path, labels[key], boxes.get(key), tuple(points.get(key, ())))
        (train if is_train[key] else test).append(sample)
    return Dataset(
        f"CUB-200-2011 ({folder.name})", shown_labels(classes), tuple(train), tuple(test), licence=NON_COMMERCIAL
    )


def _corners(x: float, y: float, width: float, height: float) -> Box:
    return x, y, x + width, y + height
