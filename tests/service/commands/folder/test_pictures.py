"""`fieldmark explain PATH… --out DIR`: a picture a photo, in a tree like theirs."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from service.cli import main
from service.commands.folder.pictures import picture_of
from service.errors import MalformedRequest
from tests.service.commands.folder.conftest import BAD, GOOD


def size_of(path: str) -> tuple[int, int]:
    """Return the size of a picture, pixels."""
    with Image.open(path) as picture:
        return picture.size


def test_the_tree_is_mirrored(photos: Path, model: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also into a folder among the photos, which are not explained again; a bad photo is a row with its code."""
    arguments = ["explain", "photos", "--out", "photos/seen", "--model", model, "--versus", "rank:2"]
    assert main(arguments) == 1
    assert "photos/seen: 11 photos, 4 of them bad, 2 other files\n" == capsys.readouterr().out
    rows = {row["path"]: row for row in map(json.loads, Path("photos/seen/explained.jsonl").read_text().splitlines())}
    assert sorted([*GOOD, *BAD]) == list(rows)
    pictures = sorted(str(path.relative_to("photos/seen")) for path in Path("photos/seen").rglob("*.png"))
    assert sorted(os.fsencode(picture_of(name)) for name in GOOD) == sorted(map(os.fsencode, pictures))
    assert (40, 20) == size_of("photos/seen/deep/er/d.jpg.png")
    assert ("Green bird", True) == (rows["deep/er/d.jpg"]["target"]["label"], "versus" in rows["a.png"])
    before = os.stat("photos/seen/a.png.png").st_mtime_ns
    assert main(arguments) == 1
    assert before == os.stat("photos/seen/a.png.png").st_mtime_ns
    assert main([*arguments, "--view", "gradcam"]) == 2
    assert "options.view overlay there, gradcam here" in capsys.readouterr().err


def test_many_photos_need_a_folder(photos: Path, model: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One picture cannot hold them; one photo and a picture's name stay one file."""
    assert main(["explain", "photos", "--out", "one.png", "--model", model]) == 2
    assert "one.png: the pictures of many photos go into a folder" in capsys.readouterr().err
    assert main(["explain", "photos/a.png", "--out", "one.png", "--model", model]) == 0
    assert (40, 20) == size_of("one.png")
    assert main(["explain", "photos/a.png", "--out", "seen", "--model", model]) == 0
    assert (40, 20) == size_of("seen/photos/a.png.png")


def test_pictures_stay_in_their_folder() -> None:
    """Whatever the photos' names are."""
    assert ("_up/a.jpg.png", "data/b.jpg.png") == (picture_of("../a.jpg"), picture_of("/data/./b.jpg"))
    with pytest.raises(MalformedRequest):
        picture_of("x" * 240)
