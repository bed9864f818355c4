"""A user's own photos in one folder per class, with or without folders of training and test part above these."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from training.data.layouts.files import Tree, is_picture, passed_over
from training.data.layouts.labels import shown_labels
from training.data.layouts.marks_csv import marks_beside
from training.data.layouts.splits import Division, divide
from training.data.samples import Box, Dataset, Sample, hold_out
from training.errors import DatasetError


def load_folder(folder: Path, layout: str = "auto") -> Dataset:
    """Read class folders, of a whole data set or of its parts.

    Without parts a fifth of every class becomes the test part, the same images every time.

    Args:
        folder: of the data set.
        layout: as for `divide`.

    Raises:
        DatasetError: the class folders cannot be recognised, or contain no photo that can be read.
    """
    division = divide(folder, layout)
    notices = list(division.notices)
    if division.whole is not None:
        names, samples = _class_folders([division.whole], notices)
        train, test = hold_out(samples, 0.2, seed=0)
        notices.append("no test folder: a fifth of every class is kept for testing")
    else:
        names, train, test = _parts(division, notices)
    trees = [division.whole] if division.whole else [*division.train, *division.test]
    places = {below.path.name: below.path for tree in reversed(trees) for below in tree.folders}
    train, test = (_with_masks(_with_boxes(samples, folder)) for samples in (train, test))
    if masked := [sample.mask for sample in (*train, *test) if sample.mask is not None]:
        root = next(above for above in masked[0].parents if above.name == "masks")
        notices = [notice for notice in notices if not notice.startswith(f"{root} is left aside")]
        notices.append(f"{len(masked)} photos have a mask of their object in {root}")
    labels = shown_labels(names, [places[name] for name in names])
    marks, gaps = marks_beside(folder, names, labels, [tree.path for tree in trees])
    return Dataset(
        folder.resolve().name,
        labels,
        tuple(train),
        tuple(test),
        licence="as the user's own data",
        notices=(*notices, *gaps),
        marks=marks,
    )


def _parts(division: Division, notices: list[str]) -> tuple[list[str], list[Sample], list[Sample]]:
    """Read both parts; the classes are those of the training part if there is one."""
    if not division.train:
        names, test = _class_folders(division.test, notices)
        return names, [], test
    names, train = _class_folders(division.train, notices)
    if not division.test:
        return names, train, []
    test_names, found = _class_folders(division.test, notices)
    if extra := sorted(set(test_names) - set(names)):
        where, lacking = division.test[0].path, division.train[0].path
        raise DatasetError(f"{where} has classes that {lacking} lacks: {', '.join(extra[:5])}")
    return names, train, [replace(sample, label=names.index(test_names[sample.label])) for sample in found]


def _class_folders(trees: Sequence[Tree], notices: list[str]) -> tuple[list[str], list[Sample]]:
    """Return class names and samples of the folders below; empty ones are left out, with a notice."""
    classes: dict[str, list[Path]] = {}
    for below in (folder for tree in trees for folder in tree.folders):
        photos = below.all_photos()
        pictures = sorted({suffix for tree in below.walk() for suffix in tree.others if is_picture(suffix)})
        if not photos and pictures:
            raise DatasetError(f"{below.path}: none of its files can be read as a photo ({', '.join(pictures)})")
        if not photos:
            notices.append(f"{below.path} contains no image: the class is left out")
            continue
        classes.setdefault(below.path.name, []).extend(photos)
    notices += passed_over(trees)
    if stray := [photo for tree in trees for photo in tree.photos]:
        notices.append(f"{len(stray)} photos are outside any class folder and are left aside: {stray[0]}, …")
    if not classes:
        raise DatasetError(
            f"{trees[0].path}: expected a folder of images for each class (or the files of CUB, Cars or Aircraft)"
        )
    names = sorted(classes)
    return names, [Sample(path, label) for label, name in enumerate(names) for path in classes[name]]


def _with_masks(samples: Iterable[Sample]) -> list[Sample]:
    """Add the masks that lie in `masks/` as the photos lie in `images/`, each a PNG of the photo's name."""
    found = []
    for sample in samples:
        places = (above for above in sample.path.parents if above.name == "images")
        names = (above.with_name("masks") / sample.path.relative_to(above).with_suffix(".png") for above in places)
        found.append(replace(sample, mask=next((name for name in names if name.is_file()), None)))
    return found


def _with_boxes(samples: Iterable[Sample], folder: Path) -> list[Sample]:
    """Add the boxes of Kaggle's Stanford Cars, from `anno_train.csv` and `anno_test.csv`."""
    boxes: dict[tuple[str, str], Box] = {}
    for above in (folder, *folder.resolve().parents[:2]):
        for part in ("train", "test"):
            if (above / f"anno_{part}.csv").is_file():
                boxes |= _kaggle_boxes(above / f"anno_{part}.csv", part)
    return [replace(sample, box=boxes.get((sample.path.parent.parent.name, sample.path.name))) for sample in samples]


def _kaggle_boxes(path: Path, part: str) -> dict[tuple[str, str], Box]:
    """Read rows of file, x1, y1, x2, y2, class; a file of another form contains no boxes."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
        return {(part, row[0]): (float(row[1]), float(row[2]), float(row[3]), float(row[4])) for row in rows}
    except (ValueError, IndexError, csv.Error, OSError):
        return {}
