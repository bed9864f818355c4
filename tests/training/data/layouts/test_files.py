"""Which files are read as photos, and that every other file is reported."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from training.data.datasets import load_dataset
from training.data.layouts.files import read_tree
from training.errors import DatasetError

Photo = Callable[..., Path]
HIDDEN = (
    ".ipynb_checkpoints/0-checkpoint.png",
    "@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg",
    "__MACOSX/._0.png",
    ".thumbnails/0.png",
    "._0.png",
    "#recycle/0.png",
    "$RECYCLE.BIN/0.png",
    "deep/.git/0.png",
)


@pytest.fixture
def two(photo: Photo, tmp_path: Path) -> Path:
    """Return two class folders with three photos each."""
    for name in ("robin", "wren"):
        for number in range(3):
            photo(tmp_path / name / f"{number}.png")
    return tmp_path


def read(root: Path) -> set[str]:
    """Return the paths of a data set's photos, relative to its folder."""
    dataset = load_dataset(root)
    return {str(sample.path.relative_to(root)) for sample in (*dataset.train, *dataset.test)}


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("above", ["robin", "."])
def test_files_of_the_system_are_not_read(photo: Photo, two: Path, hidden: str, above: str) -> None:
    """Thumbnails and copies in hidden and system folders, at every depth; a notice counts them."""
    before = read(two)
    photo(two / above / hidden)
    assert read(two) == before
    assert any("are skipped" in notice for notice in load_dataset(two).notices)


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("a.JPG", "JPEG"),
        ("a.jfif", "JPEG"),
        ("a", "PNG"),
        ("a.jpg_large", "JPEG"),
        ("a.avif", "AVIF"),
        ("a.tif", "TIFF"),
    ],
)
def test_every_format_of_the_service_is_read(two: Path, name: str, format_: str) -> None:
    """Recognised by the suffix in any case, or by the first bytes if the suffix is unknown."""
    Image.new("RGB", (40, 30), (9, 99, 200)).save(two / "robin" / name, format_)
    assert f"robin/{name}" in read(two)


def test_heic_is_read_if_its_extra_is_installed(two: Path) -> None:
    """As the service reads it."""
    heif = pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
    heif.from_pillow(Image.new("RGB", (64, 64), (9, 99, 200))).save(two / "robin" / "a.HEIC")
    assert "robin/a.HEIC" in read(two)


def test_other_files_are_reported_by_suffix(two: Path) -> None:
    """Raw files, even those that begin as a TIFF does, pictures of other formats, videos and texts."""
    Image.new("RGB", (40, 30)).save(two / "robin" / "raw.dng", "TIFF")
    Image.new("RGB", (40, 30)).save(two / "robin" / "a.jp2")
    Image.new("RGB", (40, 30)).save(two / "wren" / "a.ppm")
    (two / "wren" / "film.mov").write_bytes(b"\0\0\0\x14ftypqt  ")
    (two / "wren" / "note.txt").write_text("wren")
    before = read(two)
    assert len(before) == 6
    notice = next(notice for notice in load_dataset(two).notices if "left aside" in notice)
    assert notice.startswith("5 files are left aside")
    assert all(f"1 {suffix}" in notice for suffix in (".dng", ".jp2", ".ppm", ".mov", ".txt"))


def test_a_class_of_pictures_that_cannot_be_read_is_refused(two: Path) -> None:
    """It is an error, not a notice while the other classes are trained on."""
    (two / "tit").mkdir()
    (two / "tit" / "0.nef").write_bytes(b"II*\0" + bytes(20))
    with pytest.raises(DatasetError, match=r"tit: none of its files can be read as a photo \(.nef\)"):
        load_dataset(two)


def test_photos_outside_the_classes_are_counted(photo: Photo, two: Path) -> None:
    """A montage beside the class folders belongs to no class."""
    photo(two / "montage.png")
    assert any("1 photos are outside any class folder" in notice for notice in load_dataset(two).notices)


def test_a_link_to_a_folder_above_is_not_followed(two: Path) -> None:
    """Nothing is read twice; a link to another place is followed, and a broken one is counted."""
    (two / "robin" / "loop").symlink_to(two)
    (two / "robin" / "gone.png").symlink_to(two / "nowhere.png")
    shutil.move(two / "wren", two.with_name(f"{two.name}-elsewhere"))
    (two / "wren").symlink_to(two.with_name(f"{two.name}-elsewhere"))
    tree = read_tree(two)
    assert len(tree.with_photos()[1].photos) == 3
    assert any("1 broken links" in notice for notice in load_dataset(two).notices)
