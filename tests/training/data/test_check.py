"""The check of all photos: damage in any part, copies across parts, photos in two classes."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from training.data.check import content_of, examine
from training.data.datasets import load_dataset
from training.data.samples import Dataset
from training.errors import DatasetError


@pytest.fixture
def parts(cub_like: Path, tmp_path: Path) -> Path:
    """Return train and test folders of three classes, four and two photos each."""
    for folder in sorted((cub_like / "images").iterdir()):
        for number, path in enumerate(sorted(folder.iterdir())[:6]):
            target = tmp_path / "data" / ("train" if number < 4 else "test") / folder.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return tmp_path / "data"


def check(root: Path, cache: Path, **options: bool) -> Dataset:
    """Return the data set of a folder, checked."""
    return examine(load_dataset(root), cache, progress=False, **options)


def photos(root: Path, part: str, count: int) -> list[Path]:
    """Return photos of a part, of one class after the other."""
    return sorted((root / part).rglob("*.png"))[:count]


def test_damaged_photos_of_every_part_are_listed_at_once(parts: Path, tmp_path: Path) -> None:
    """Truncated, empty and of another type: one message for both parts; they can be left out."""
    train, test, other = photos(parts, "train", 1)[0], *photos(parts, "test", 2)
    train.write_bytes(train.read_bytes()[:2000])
    test.write_bytes(b"")
    other.write_bytes(b"<html>404</html>")
    for _ in range(2):  # the second time from the cache
        with pytest.raises(DatasetError, match=r"3 damaged images[\s\S]*--skip-damaged") as caught:
            check(parts, tmp_path / "cache")
        assert all(str(path) in str(caught.value) for path in (train, test, other))
    dataset = check(parts, tmp_path / "cache", skip_damaged=True)
    assert (len(dataset.train), len(dataset.test), dataset.skipped) == (11, 4, 3)
    assert any("left out: 3 damaged images" in notice for notice in dataset.notices)


def test_a_class_that_loses_all_its_photos_is_named(parts: Path, tmp_path: Path) -> None:
    """Leaving damaged photos out may leave a class with none."""
    for path in photos(parts, "train", 4):
        path.write_bytes(b"")
    notices = check(parts, tmp_path / "cache", skip_damaged=True).notices
    assert any("1 classes have no training image left: Red Bird" in notice for notice in notices)


def test_copies_of_training_photos_are_removed_from_the_test_part(parts: Path, tmp_path: Path) -> None:
    """Under any name; a notice counts them, and the training part keeps its photo."""
    for path in photos(parts, "train", 2):
        shutil.copy(path, parts / "test" / path.parent.name / f"copy-of-{path.name}")
    dataset = check(parts, tmp_path / "cache")
    assert (len(dataset.train), len(dataset.test)) == (12, 6)
    assert any(notice.startswith("2 test photos are also training photos") for notice in dataset.notices)


def test_a_photo_in_two_classes_is_named(parts: Path, tmp_path: Path) -> None:
    """The notice names both paths and both classes."""
    path = photos(parts, "train", 1)[0]
    shutil.copy(path, parts / "train" / "003.Blue_Bird" / "x.png")
    notice = next(notice for notice in check(parts, tmp_path / "cache").notices if "two classes" in notice)
    assert all(name in notice for name in (str(path), "x.png", "Red Bird", "Blue Bird"))


def test_a_repaired_photo_is_checked_again(parts: Path, tmp_path: Path) -> None:
    """Results are cached by bytes, not by names."""
    path = photos(parts, "train", 1)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    with pytest.raises(DatasetError, match="1 damaged"):
        check(parts, tmp_path / "cache")
    path.write_bytes(whole)
    assert check(parts, tmp_path / "cache").skipped == 0


def test_the_check_works_without_its_cache(parts: Path, tmp_path: Path) -> None:
    """A cache that cannot be written or is damaged changes nothing."""
    (tmp_path / "file").write_text("")
    dataset = check(parts, tmp_path / "file")
    check(parts, tmp_path / "cache")
    for path in (tmp_path / "cache").iterdir():
        path.write_text("{")
    assert check(parts, tmp_path / "cache") == dataset


def test_content_is_bytes_and_class(parts: Path, tmp_path: Path) -> None:
    """The same whether the data set was checked or not; another label is another content."""
    listed = load_dataset(parts)
    content = content_of(check(parts, tmp_path / "cache").train)
    assert content == content_of(listed.train)
    other = replace(listed.train[0], label=1)
    assert content_of([other]) != content[:1]
