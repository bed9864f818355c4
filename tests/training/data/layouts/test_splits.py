"""Folders that are parts of a data set are not taken for classes, nor classes for parts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from training.data.datasets import load_dataset
from training.data.layouts.splits import part_of_name
from training.errors import DatasetError

Photo = Callable[..., Path]


def fill(photo: Photo, root: Path, *folders: str, count: int = 2) -> Path:
    """Write photos into folders below a root."""
    for folder in folders:
        for number in range(count):
            photo(root / folder / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Train", "Test"),
        ("TRAINING", "validation"),
        ("training", "valid"),
        ("train_images", "val_images"),
        ("cars_train/cars_train", "cars_test/cars_test"),
        ("car_data/car_data/train", "car_data/car_data/test"),
        ("images/train", "images/test"),
        ("archive/Training Data", "archive/Testing Data"),
        ("trainSet", "testSet"),
        ("train2017", "val2017"),
        ("01-train", "02-eval"),
        ("Entraînement", "Test"),
        ("train/images", "test/images"),
    ],
)
def test_parts_by_any_usual_name_are_parts(photo: Photo, tmp_path: Path, train: str, test: str) -> None:
    """In any case, nested as archives nest them: two classes, divided by folders."""
    fill(photo, tmp_path, f"{train}/robin", f"{train}/wren", count=3)
    fill(photo, tmp_path, f"{test}/robin", f"{test}/wren")
    dataset = load_dataset(tmp_path)
    assert dataset.labels == ("robin", "wren")
    assert (len(dataset.train), len(dataset.test)) == (6, 4)
    assert [sample.label for sample in dataset.test] == [0, 0, 1, 1]


def test_the_inner_folder_is_the_same_data_set(photo: Photo, tmp_path: Path) -> None:
    """Named by the archive's folder or by the one inside it."""
    fill(photo, tmp_path, *(f"a/a/{part}/{name}" for part in ("train", "test") for name in ("robin", "wren")))
    outer, inner, innermost = (load_dataset(tmp_path / name) for name in (".", "a", "a/a"))
    assert (outer.train, outer.test) == (inner.train, inner.test) == (innermost.train, innermost.test)


def test_a_validation_part_beside_a_test_part_is_reported(photo: Photo, tmp_path: Path) -> None:
    """It is added to the training part, and a notice names it and the option to leave it out."""
    fill(photo, tmp_path, *(f"{part}/{name}" for part in ("train", "val", "test") for name in ("robin", "wren")))
    dataset = load_dataset(tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (8, 4)
    assert any("val is added" in notice for notice in dataset.notices)
    assert len(load_dataset(tmp_path, layout="train=train,test=test").train) == 4


def test_a_test_part_alone_is_read(photo: Photo, tmp_path: Path) -> None:
    """A notice reports that there are no training images."""
    dataset = load_dataset(fill(photo, tmp_path, "Test/robin", "Test/wren"))
    assert (len(dataset.train), len(dataset.test)) == (0, 4)
    assert any("no training images" in notice for notice in dataset.notices)


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "test"),
        ("train_station", "test_tube"),
        ("images", "masks"),
        ("images", "annotations/trimaps"),
        ("photo/cat", "photo/dog", "sketch/cat", "sketch/dog"),
        ("fold_a/robin", "fold_a/wren", "fold_b/robin", "fold_b/wren"),
        ("train/robin", "train/wren", "extra/robin", "extra/wren"),
        ("train/steam", "train/diesel", "car", "bus"),
        ("train/robin", "train/wren", "training/robin", "training/wren"),
    ],
)
def test_ambiguous_folders_are_refused(photo: Photo, tmp_path: Path, folders: tuple[str, ...]) -> None:
    """The message names `--layout`, which decides."""
    fill(photo, tmp_path, *folders)
    with pytest.raises(DatasetError, match=r"classes, or parts[\s\S]*--layout classes"):
        load_dataset(tmp_path)
    tops = sorted({folder.partition("/")[0] for folder in folders})
    assert load_dataset(tmp_path, layout="classes").labels == tuple(top.replace("_", " ") for top in tops)


def test_the_layout_can_be_set(photo: Photo, tmp_path: Path) -> None:
    """Any folder may be either part; a missing one is named."""
    fill(photo, tmp_path, *(f"fold_{part}/{name}" for part in "ab" for name in ("robin", "wren")))
    dataset = load_dataset(tmp_path, layout="train=fold_b,test=fold_a")
    assert {sample.path.parent.parent.name for sample in dataset.train} == {"fold_b"}
    for layout, message in (("train=fold_c", "fold_c is not a folder"), ("parts", "expected auto, classes")):
        with pytest.raises(DatasetError, match=message):
            load_dataset(tmp_path, layout=layout)


@pytest.mark.parametrize("folders", [("train", "car", "bus"), ("valid", "invalid"), ("test", "a", "b")])
def test_classes_named_like_parts_stay_classes(photo: Photo, tmp_path: Path, folders: tuple[str, ...]) -> None:
    """A vehicle called train, beside other vehicles."""
    fill(photo, tmp_path, *folders)
    assert load_dataset(tmp_path).labels == tuple(sorted(folders))


def test_photos_one_level_deeper_are_read(photo: Photo, tmp_path: Path) -> None:
    """Photos in folders below a class folder belong to the class."""
    fill(photo, tmp_path, "robin/photos", "wren/photos", "tit/2023", "tit/2024")
    dataset = load_dataset(tmp_path)
    assert dataset.labels == ("robin", "tit", "wren")
    assert len(dataset.train) + len(dataset.test) == 8


def test_masks_beside_images_are_no_classes(photo: Photo, tmp_path: Path) -> None:
    """The folder of images is used, and a notice says what the other is."""
    fill(photo, tmp_path, *(f"{kind}/{name}" for kind in ("images", "masks") for name in ("robin", "wren")))
    dataset = load_dataset(tmp_path)
    assert {sample.path.parents[1].name for sample in dataset.train} == {"images"}
    assert any(notice.startswith("4 photos have a mask of their object in") for notice in dataset.notices)


def test_part_of_name_reads_whole_words() -> None:
    """Parts of words do not count, and a name of two parts is of neither."""
    names = ("Train", "trainval", "train_test", "station", "latest", "constraint", "X-Test_v2", "val")
    assert [part_of_name(name) for name in names] == ["train", "train", None, None, None, None, "test", "val"]
