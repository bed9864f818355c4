"""Stanford Cars, from the .mat files of its development kit, wherever its archives were unpacked."""

from pathlib import Path
from typing import Any

import numpy as np

from training.data.layouts.labels import shown_labels
from training.data.layouts.tables import NON_COMMERCIAL, find_below, must_exist
from training.data.samples import Dataset, Sample
from training.errors import DatasetError

META, TRAIN, TEST = "cars_meta.mat", "cars_train_annos.mat", "cars_test_annos_withlabels.mat"
UNLABELLED = "cars_test_annos.mat"


def load_cars(folder: Path) -> Dataset:
    """Read both parts with their boxes; the training part alone if the labels of the test part are missing.

    Raises:
        DatasetError: a list or its photos are missing, or damaged.
    """
    base = folder if folder.name == "stanford_cars" else folder / "stanford_cars"
    if (whole := find_below(folder, "cars_annos.mat")) and not find_below(folder, TRAIN):
        return _load_whole(whole, folder)
    expected = {META: base / "devkit" / META, TRAIN: base / "devkit" / TRAIN, TEST: base / TEST}
    found = {name: find_below(folder, name) or expected[name] for name in expected}
    notices = []
    if not found[TEST].is_file() and find_below(folder, UNLABELLED):
        notices.append(f"{TEST} is missing, and {UNLABELLED} has no labels: there is no test part")
        del found[TEST]
    for path in found.values():
        must_exist(path)
    train = _samples(found[TRAIN], _photos(folder, "cars_train"))
    test = _samples(found[TEST], _photos(folder, "cars_test")) if TEST in found else []
    return _dataset(found[META], train, test, notices)


def _load_whole(path: Path, folder: Path) -> Dataset:
    """Read `cars_annos.mat`, which numbers the photos of `car_ims` differently."""
    images = find_below(folder, "car_ims", folders=True)
    if images is None:
        raise DatasetError(f"{path} lists the photos of car_ims, which is missing; those of cars_train need {TRAIN}")
    rows = _read(path, "annotations")
    samples = [_sample(path, row, images / Path(str(row["relative_im_path"])).name) for row in rows]
    train = [sample for row, sample in zip(rows, samples, strict=True) if not row["test"]]
    return _dataset(path, train, [sample for row, sample in zip(rows, samples, strict=True) if row["test"]], [])


def _dataset(meta: Path, train: list[Sample], test: list[Sample], notices: list[str]) -> Dataset:
    names = [str(name) for name in _read(meta, "class_names")]
    return Dataset(
        "Stanford Cars",
        shown_labels(names, [meta] * len(names)),
        tuple(train),
        tuple(test),
        licence=NON_COMMERCIAL,
        notices=tuple(notices),
    )


def _photos(folder: Path, name: str) -> Path:
    """Return the folder of photos of that name: archives are often unpacked into a folder of the same name."""
    found = find_below(folder, name, folders=True)
    if found is None:
        raise DatasetError(f"{folder}: the photos of {name} are missing")
    while (found / name).is_dir():
        found = found / name
    return found


def _samples(path: Path, images: Path) -> list[Sample]:
    return [_sample(path, row, images / str(row["fname"])) for row in _read(path, "annotations")]


def _sample(path: Path, row: Any, photo: Path) -> Sample:
    try:
        left, top, right, bottom = (float(row[f"bbox_{side}"]) for side in ("x1", "y1", "x2", "y2"))
        return Sample(photo, int(row["class"]) - 1, (left, top, right, bottom))
    except (ValueError, TypeError, IndexError) as error:
        raise DatasetError(f"{path}: a row of annotations cannot be read ({error})") from error


def _read(path: Path, name: str) -> Any:
    """Return the rows of one of the variables in a .mat file."""
    from scipy.io import loadmat

    try:
        return np.atleast_1d(loadmat(path, squeeze_me=True)[name])
    except Exception as error:  # scipy raises many kinds of errors on damaged files
        raise DatasetError(f"{path} cannot be read: {error}") from error
