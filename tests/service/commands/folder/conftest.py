"""A folder of photos for the commands, with what real folders hold besides."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

GOOD = ("=1+1.png", "a.png", "b\\x0Ac.png", "caf\\xE9.png", "deep/er/d.jpg", "deep/e.dat", "z.png")
BAD = ("broken.jpg", "empty.JPG", "gone.jpg", "round.jpg")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with seven photos, four bad ones, two other files, hidden ones, and links that circle."""
    folder = tmp_path / "photos"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("=1+1.png", "a.png", "z.png", "b\nc.png", ".hidden/h.png"):
        Image.new("RGB", (40, 20), (250, 10, 10)).save(folder / name)
    Image.new("RGB", (40, 20), (10, 250, 10)).save(folder / "deep" / "er" / "d.jpg")
    Image.new("RGB", (40, 20), (10, 10, 250)).save(folder / "deep" / "e.dat", "PNG")
    Path(os.fsdecode(bytes(folder) + b"/caf\xe9.png")).write_bytes((folder / "a.png").read_bytes())
    (folder / "broken.jpg").write_bytes((folder / "deep" / "er" / "d.jpg").read_bytes()[:300])
    (folder / "empty.JPG").touch()
    (folder / "note.txt").write_text("no photo")
    os.mkfifo(folder / "pipe")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "round.jpg").symlink_to("round.jpg")
    (folder / "deep" / "up").symlink_to("../..")
    (folder / "deep" / "er" / "again").symlink_to("..")
    return folder


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Return a folder of 300 small photos in three folders."""
    folder = tmp_path / "many"
    for index in range(300):
        path = folder / f"{index % 3}" / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (index % 256, 3 * index % 256, 7 * index % 256)).save(path)
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    """Work in the temporary folder."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)
