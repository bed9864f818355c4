"""A user's own photos, in a folder for each class."""

from dataclasses import replace
from pathlib import Path

from PIL import Image

from training.data.layouts.labels import shown_labels
from training.data.samples import Dataset, Sample, hold_out
from training.errors import DatasetError

IMAGE_SUFFIXES = frozenset(Image.registered_extensions()) - {".pdf", ".eps", ".ps", ".h5", ".hdf", ".grib", ".mpg"}


def load_folder(folder: Path) -> Dataset:
    """Read class folders, either directly below, or below `train` and `test` (or `val`).

    Without such a division a fifth of every class is test, the same images every time.
    """
    test_folder = next((folder / name for name in ("test", "val", "valid") if (folder / name).is_dir()), None)
    notices: list[str] = []
    if (folder / "train").is_dir():
        names, train = _class_folders(folder / "train", notices)
        test: list[Sample] = []
        if test_folder is not None:
            test_names, found = _class_folders(test_folder, notices)
            if extra := sorted(set(test_names) - set(names)):
                raise DatasetError(f"{test_folder} has classes that {folder / 'train'} lacks: {', '.join(extra[:5])}")
            test = [replace(sample, label=names.index(test_names[sample.label])) for sample in found]
    else:
        names, samples = _class_folders(folder / "images" if (folder / "images").is_dir() else folder, notices)
        train, test = hold_out(samples, 0.2, seed=0)
        notices.append("no test folder: a fifth of every class is kept for testing")
    return Dataset(
        folder.name,
        shown_labels(names),
        tuple(train),
        tuple(test),
        licence="as the user's own data",
        notices=tuple(notices),
    )


def _class_folders(folder: Path, notices: list[str]) -> tuple[list[str], list[Sample]]:
    """Return class names and samples of the folders below; empty ones are left out with a notice."""
    names: list[str] = []
    samples: list[Sample] = []
    for below in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        files = sorted(path for path in below.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
        if not files:
            notices.append(f"{below} holds no image: the class is left out")
            continue
        samples += [Sample(path, len(names)) for path in files]
        names.append(below.name)
    if not names:
        raise DatasetError(
            f"{folder}: expected a folder for each class with images in it (or CUB's, Cars', Aircraft's)"
        )
    return names, samples
