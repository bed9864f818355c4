"""The data sets as they lie on the disk: CUB-200-2011, Stanford Cars, FGVC-Aircraft, labels.csv, class folders.

Every loader reads lists only and opens no image; nothing is ever downloaded. A missing or contradictory file is
named, with what was expected where. Labels are shown with spaces and without CUB's number.
"""

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.errors import DatasetError

IMAGE_SUFFIXES = frozenset(Image.registered_extensions()) - {".pdf", ".eps", ".ps", ".h5", ".hdf", ".grib", ".mpg"}
AIRCRAFT_BANNER = 20
"""Height of the copyright banner at the bottom of every FGVC-Aircraft photo, pixels."""
NON_COMMERCIAL = "non-commercial research and education; the images belong to their photographers"

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Sample:
    """One image and what is known of it.

    Attributes:
        path: of the file.
        label: class index, 0-based.
        box: around the object, (left, top, right, bottom), pixels of the upright image; None where unknown.
            It may stick out of the image: the transforms clip it.
        points: visible key points (x, y), pixels.
    """

    path: Path
    label: int
    box: Box | None = None
    points: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A data set with its official (or seeded) division.

    Attributes:
        name: for people and provenance.
        labels: of the K classes, in order, as shown to people.
        train: training part, held-out images included.
        test: test part; may be empty.
        banner: rows to crop off the bottom of every photo, pixels.
        licence: what the data allow.
        notices: oddities that a person should know of.
    """

    name: str
    labels: tuple[str, ...]
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    banner: int = 0
    licence: str = ""
    notices: tuple[str, ...] = field(default=())

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.labels)

    @property
    def has_boxes(self) -> bool:
        """Whether some image of the test part has a box."""
        return any(sample.box is not None for sample in self.test)


def load_dataset(folder: Path, kind: str = "auto") -> Dataset:
    """Read a data set's lists.

    Args:
        folder: where it lies.
        kind: `cub`, `cars`, `aircraft`, `csv` or `folder`; `auto` looks at the files.

    Raises:
        DatasetError: nothing there, or a file is missing, damaged or contradictory.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder")
    if kind == "auto":
        kind = detect(folder)
    if kind == "folder" and (folder / "labels.csv").is_file():
        kind = "csv"
    dataset = LOADERS[kind](folder)
    return _checked(dataset)


def detect(folder: Path) -> str:
    """Return the kind of data set that lies in a folder, by its files."""
    if (folder / "train_test_split.txt").is_file() or (folder / "image_class_labels.txt").is_file():
        return "cub"
    if (folder / "stanford_cars").is_dir() or (folder / "devkit").is_dir():
        return "cars"
    if (folder / "fgvc-aircraft-2013b").is_dir() or (folder / "data" / "images_box.txt").is_file():
        return "aircraft"
    return "csv" if (folder / "labels.csv").is_file() else "folder"


def hold_out(samples: Sequence[Sample], fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Divide the training part into what is trained on and what is held out, class by class.

    The held-out images are `fraction` of all, spread over the classes as evenly as rounding allows; a class with one
    image keeps it for training.

    Args:
        samples: the training part.
        fraction: held out, in [0, 1).
        seed: which images those are.

    Returns:
        Kept and held-out samples, each in the given order.
    """
    rng = np.random.default_rng(seed)
    held: set[int] = set()
    for members in _by_label(samples).values():
        count = min(int(np.floor(fraction * len(members) + rng.random())), len(members) - 1)
        held.update(rng.permutation(members)[:count].tolist())
    if fraction > 0 and not held:  # a tiny data set: one image is better than none
        large = max(_by_label(samples).values(), key=len, default=[])
        held.update(large[:1] if len(large) > 1 else [])
    kept = [sample for index, sample in enumerate(samples) if index not in held]
    return kept, [sample for index, sample in enumerate(samples) if index in held]


def display_label(name: str) -> str:
    """Return a class's name for people: `001.Black_footed_Albatross` → `Black footed Albatross`."""
    return re.sub(r"^\d+[._]", "", name).replace("_", " ").strip() or name


def load_cub(folder: Path) -> Dataset:
    """Read CUB-200-2011's official lists, boxes, and parts where present."""
    paths = {key: value for key, (value,) in _table(folder / "images.txt", 2)}
    labels = {key: int(value) - 1 for key, (value,) in _table(folder / "image_class_labels.txt", 2)}
    is_train = {key: value == "1" for key, (value,) in _table(folder / "train_test_split.txt", 2)}
    classes = [value for _, (value,) in _table(folder / "classes.txt", 2)]
    boxes: dict[str, Box] = {}
    if (folder / "bounding_boxes.txt").is_file():
        boxes = {key: _corners(*map(float, row)) for key, row in _table(folder / "bounding_boxes.txt", 5)}
    points: dict[str, list[tuple[float, float]]] = {}
    if (folder / "parts" / "part_locs.txt").is_file():
        for key, (_, x, y, visible) in _table(folder / "parts" / "part_locs.txt", 5):
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
    return Dataset(f"CUB-200-2011 ({folder.name})", _labels(classes), tuple(train), tuple(test), licence=NON_COMMERCIAL)


def load_cars(folder: Path) -> Dataset:
    """Read Stanford Cars through torchvision's class, and the boxes from the same .mat files (needs scipy)."""
    from scipy.io import loadmat
    from torchvision.datasets import StanfordCars

    root = folder.parent if folder.name == "stanford_cars" else folder
    base = root / "stanford_cars"
    annotations = {
        "train": base / "devkit" / "cars_train_annos.mat",
        "test": base / "cars_test_annos_withlabels.mat",
    }
    for path in (base / "devkit" / "cars_meta.mat", *annotations.values()):
        _must_exist(path)
    parts: dict[str, tuple[Sample, ...]] = {}
    labels: tuple[str, ...] = ()
    for split, path in annotations.items():
        try:
            listed = StanfordCars(root, split=split, download=False)
            rows = np.atleast_1d(loadmat(path, squeeze_me=True)["annotations"])
            boxes = [tuple(float(row[f"bbox_{side}"]) for side in ("x1", "y1", "x2", "y2")) for row in rows]
        except DatasetError:
            raise
        except Exception as error:  # scipy has a dozen ways to dislike a damaged file
            raise DatasetError(f"{path} or the images beside it: {error}") from error
        labels = _labels([str(name) for name in listed.classes])
        parts[split] = tuple(
            Sample(Path(name), int(label), box)  # type: ignore[arg-type]  # four sides, as listed above
            for (name, label), box in zip(listed._samples, boxes, strict=True)
        )
    return Dataset("Stanford Cars", labels, parts["train"], parts["test"], licence=NON_COMMERCIAL)


def load_aircraft(folder: Path) -> Dataset:
    """Read FGVC-Aircraft (variants, trained on trainval) through torchvision's class, and the boxes beside it."""
    from torchvision.datasets import FGVCAircraft

    root = folder.parent if folder.name == "fgvc-aircraft-2013b" else folder
    data = root / "fgvc-aircraft-2013b" / "data"
    for name in ("variants.txt", "images_variant_trainval.txt", "images_variant_test.txt"):
        _must_exist(data / name)
    boxes: dict[str, Box] = {}
    if (data / "images_box.txt").is_file():
        # One-based and inclusive, as the data set's own README says.
        for key, row in _table(data / "images_box.txt", 5):
            left, top, right, bottom = map(float, row)
            boxes[key] = (left - 1, top - 1, right, bottom)
    parts: dict[str, tuple[Sample, ...]] = {}
    labels: tuple[str, ...] = ()
    for split in ("trainval", "test"):
        try:
            listed = FGVCAircraft(root, split=split, annotation_level="variant", download=False)
        except (KeyError, ValueError, OSError) as error:
            raise DatasetError(
                f"{data / f'images_variant_{split}.txt'}: {error!r} does not fit variants.txt"
            ) from error
        labels = _labels(listed.classes)
        files = zip(map(Path, listed._image_files), listed._labels, strict=True)
        parts[split] = tuple(Sample(path, label, boxes.get(path.stem)) for path, label in files)
    return Dataset(
        "FGVC-Aircraft", labels, parts["trainval"], parts["test"], banner=AIRCRAFT_BANNER, licence=NON_COMMERCIAL
    )


def load_csv(folder: Path) -> Dataset:
    """Read `labels.csv`: columns `file` and `class_name`, and optionally `class_id`, `split` and `x1,y1,x2,y2`.

    Paths are relative to the folder, or to `images/` in it. Without a `split` column, a fifth of every class is test.
    """
    path = _must_exist(folder / "labels.csv")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"file", "class_name"} <= set(rows[0]):
        raise DatasetError(f"{path}: expected a header with the columns file and class_name, and rows below")
    images = folder / "images" if (folder / "images" / rows[0]["file"]).is_file() else folder
    try:
        order = {row["class_name"]: int(row.get("class_id") or 0) for row in rows}
        names = sorted(order, key=lambda name: (order[name], name))
        index = {name: position for position, name in enumerate(names)}
        samples = [Sample(images / row["file"], index[row["class_name"]], _csv_box(row)) for row in rows]
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{path}: {error}") from error
    splits = [(row.get("split") or "").strip().lower() for row in rows]
    if unknown := set(splits) - {"train", "val", "valid", "trainval", "test", ""}:
        raise DatasetError(f"{path}: column split has {sorted(unknown)}; expected train or test")
    if any(splits):
        train = [sample for sample, split in zip(samples, splits, strict=True) if split != "test"]
        test = [sample for sample, split in zip(samples, splits, strict=True) if split == "test"]
    else:
        train, test = hold_out(samples, 0.2, seed=0)
    return Dataset(folder.name, _labels(names), tuple(train), tuple(test), licence="as the user's own data")


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
        _labels(names),
        tuple(train),
        tuple(test),
        licence="as the user's own data",
        notices=tuple(notices),
    )


LOADERS: dict[str, Callable[[Path], Dataset]] = {
    "cub": load_cub,
    "cars": load_cars,
    "aircraft": load_aircraft,
    "csv": load_csv,
    "folder": load_folder,
}


def _checked(dataset: Dataset) -> Dataset:
    """Refuse what cannot be trained on, and note what is merely odd."""
    if dataset.num_classes < 2:
        raise DatasetError(f"{dataset.name}: {dataset.num_classes} classes found; a classifier needs at least two")
    if not dataset.train:
        raise DatasetError(f"{dataset.name}: no training images")
    for sample in (*dataset.train, *dataset.test):
        if not 0 <= sample.label < dataset.num_classes:
            raise DatasetError(f"{sample.path}: class {sample.label + 1} of {dataset.num_classes} classes")
    missing = [sample.path for sample in (*dataset.train, *dataset.test) if not sample.path.is_file()]
    if missing:
        raise DatasetError(f"{len(missing)} images are missing; first expected: {missing[0]}")
    count = Counter(sample.label for sample in dataset.train)
    notices = list(dataset.notices)
    if empty := [label for index, label in enumerate(dataset.labels) if not count[index]]:
        notices.append(f"{len(empty)} classes have no training image: {', '.join(empty[:5])}")
    if single := [label for index, label in enumerate(dataset.labels) if count[index] == 1]:
        notices.append(f"{len(single)} classes have one training image, none held out: {', '.join(single[:5])}")
    if not dataset.test:
        notices.append("no test images: `evaluate` has only the held-out part")
    return replace(dataset, notices=tuple(notices))


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


def _labels(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names for people, unless two classes would then be called the same."""
    shown = tuple(display_label(name) for name in names)
    return shown if len(set(shown)) == len(shown) else tuple(names)


def _by_label(samples: Iterable[Sample]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(sample.label, []).append(index)
    return groups


def _table(path: Path, columns: int) -> list[tuple[str, list[str]]]:
    """Read lines of `key value …` separated by blanks; the last column of a two-column table may hold blanks."""
    try:
        lines = _must_exist(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not text ({error})") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        key, *values = line.split(maxsplit=1) if columns == 2 else line.split()
        if len(values) != columns - 1:
            raise DatasetError(f"{path}, line {number}: expected {columns} columns, found {line!r}")
        rows.append((key, values))
    return rows


def _csv_box(row: dict[str, Any]) -> Box | None:
    sides = [row.get(name) or "" for name in ("x1", "y1", "x2", "y2")]
    if not all(sides):
        return None
    left, top, right, bottom = map(float, sides)
    return left, top, right, bottom


def _corners(x: float, y: float, width: float, height: float) -> Box:
    return x, y, x + width, y + height


def _must_exist(path: Path) -> Path:
    if not path.is_file():
        raise DatasetError(f"{path} is missing")
    return path
