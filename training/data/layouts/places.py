"""Where in a folder a data set lies: archives bring folders of their own, and people name any of them."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data.layouts.files import visible_folders
from training.data.layouts.splits import IMAGE_WORDS
from training.errors import DatasetError

DEPTH = 4
"""Levels below the folder that lists are looked for in."""
MARKS = {
    "cub": {"train_test_split.txt", "image_class_labels.txt"},
    "cars": {"cars_meta.mat", "cars_annos.mat", "cars_train_annos.mat"},
    "aircraft": {"variants.txt", "images_variant_trainval.txt", "images_variant_test.txt", "images_box.txt"},
    "csv": {"labels.csv"},
}
"""Layout → lists, of which one is enough to recognise it."""
FOLDERS = {"cars": {"stanford_cars", "devkit"}, "aircraft": {"fgvc-aircraft-2013b"}}
"""Layout → folders by which it is recognised even where its lists are missing, so that the message names them."""
FILE_COLUMNS = ("file", "filename", "file_name", "image", "image_name", "image_path", "filepath", "filepaths", "path")
CLASS_COLUMNS = ("class_name", "classes", "class", "label_name", "label", "labels", "species", "category")


@dataclass(frozen=True)
class Place:
    """A data set that was found.

    Attributes:
        kind: of its layout.
        folder: that its lists lie in.
        depth: below the folder that was named.
        doubt: 0 for its makers' own lists, 1 for tables that somebody drew from them, 2 for a folder's name alone.
    """

    kind: str
    folder: Path
    depth: int
    doubt: int = 0


def find_place(folder: Path, kind: str = "auto") -> Place:
    """Return the data set that lies in a folder or somewhere below it; by default class folders.

    Args:
        folder: that a person named: of the data set, of its archive, or of its images.
        kind: `auto`, or the only layout to look for.

    Raises:
        DatasetError: several data sets lie there.
    """
    found = [place for place in _places(folder) if kind in ("auto", place.kind)]
    if not found and folder.name.lower() in IMAGE_WORDS:
        found = [place for place in _marked(folder.resolve().parent, 0) if kind in ("auto", place.kind)]
    if not found:
        return Place("folder" if kind == "auto" else kind, folder, 0)
    best = min(found, key=lambda place: (place.doubt, place.depth))
    level = [place for place in found if (place.doubt, place.depth) == (best.doubt, best.depth)]
    separate = {place.folder for place in level if place.kind in ("cub", "csv")}
    if len({place.kind for place in level}) > 1 or len(separate) > 1:
        names = ", ".join(f"{place.folder.relative_to(folder)} ({place.kind})" for place in level[:4])
        raise DatasetError(f"{folder} holds several data sets: {names}; name the folder of one, or --dataset")
    return best


def column(header: list[str], names: tuple[str, ...]) -> str | None:
    """Return the first of some names that a table's header has, as the header writes it."""
    written = {name.strip().lower(): name for name in reversed(header)}
    return next((written[name] for name in names if name in written), None)


def _places(folder: Path, depth: int = 0) -> Iterator[Place]:
    yield from _marked(folder, depth)
    if depth < DEPTH:
        for below in visible_folders(folder):
            yield from _places(below, depth + 1)


def _marked(folder: Path, depth: int) -> Iterator[Place]:
    for kind, marks in MARKS.items():
        if any((folder / mark).is_file() for mark in marks):
            yield Place(kind, folder, depth)
    for kind, names in FOLDERS.items():
        if any((folder / name).is_dir() for name in names):
            yield Place(kind, folder, depth, doubt=2)
    tables = [folder / f"{part}.csv" for part in ("train", "test")]
    if all(path.is_file() and _names_photos(path) for path in tables):
        yield Place("tables", folder, depth, doubt=1)


def _names_photos(path: Path) -> bool:
    """Whether a table says which photo is of which class."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return bool(column(header, FILE_COLUMNS) and column(header, CLASS_COLUMNS))
