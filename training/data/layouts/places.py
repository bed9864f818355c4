"""Find the data set in a folder: archives add folders of their own, and a user may name any of them."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data.layouts.files import folders_below
from training.data.layouts.splits import IMAGE_WORDS
from training.errors import DatasetError

MARKS = {
    "cub": {"train_test_split.txt", "image_class_labels.txt"},
    "cars": {"cars_meta.mat", "cars_annos.mat", "cars_train_annos.mat"},
    "aircraft": {"variants.txt", "images_variant_trainval.txt", "images_variant_test.txt", "images_box.txt"},
    "csv": {"labels.csv"},
}
"""Layout → its lists; one is enough to recognise it."""
FOLDERS = {"cars": {"stanford_cars", "devkit"}, "aircraft": {"fgvc-aircraft-2013b"}}
"""Layout → folders that identify it even if its lists are missing, so that the message names these."""
FILE_COLUMNS = ("file", "filename", "file_name", "image", "image_name", "image_path", "filepath", "filepaths", "path")
CLASS_COLUMNS = ("class_name", "classes", "class", "label_name", "label", "labels", "species", "category")


@dataclass(frozen=True)
class Place:
    """A data set that was found.

    Attributes:
        kind: of its layout.
        folder: of its lists.
        depth: below the folder that the user named.
        doubt: 0 for the authors' own lists, 1 for tables derived from them, 2 for a folder's name alone.
    """

    kind: str
    folder: Path
    depth: int
    doubt: int = 0


def find_place(folder: Path, kind: str = "auto") -> Place:
    """Return the data set in a folder or below it; class folders if there is no other.

    Args:
        folder: that the user named: of the data set, of its archive, or of its images.
        kind: `auto`, or the only layout to accept.

    Raises:
        DatasetError: there are several data sets.
    """
    places = [place for below, depth in folders_below(folder) for place in _marked(below, depth)]
    found = [place for place in places if kind in ("auto", place.kind)]
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
    """Return the first of some names that is in a table's header, as written there."""
    written = {name.strip().lower(): name for name in reversed(header)}
    return next((written[name] for name in names if name in written), None)


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
    """Whether a table has a column of files and one of classes."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return bool(column(header, FILE_COLUMNS) and column(header, CLASS_COLUMNS))
