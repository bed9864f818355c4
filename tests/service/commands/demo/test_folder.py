"""The folder of a demo is the demo's own."""

import json
from pathlib import Path

import pytest

from service.commands.demo.folder import LIST, Folder, names_of


def test_a_demo_is_written_anew(tmp_path: Path) -> None:
    """Files of the demo before are removed at the end, those of an interrupted one, too: its pictures may be photos."""
    path = tmp_path / "new" / "demo"
    folder = Folder(path)
    folder.begin(["a.png", "b.png"])
    folder.write("a.png", b"a")
    again = Folder(path)
    again.begin(["c.png"])
    assert b"a" == (path / "a.png").read_bytes()
    again.write("c.png", b"c")
    again.finish(["c.png"], {"results": {}})
    assert ["c.png", LIST] == sorted(one.name for one in path.iterdir())
    expected = {"made_by": "fieldmark demo", "files": ["c.png"], "results": {}}
    assert expected == json.loads((path / LIST).read_text())


@pytest.mark.parametrize(
    "listed", ["", "{}", "[]", '{"files": 5}', '{"files": [["note.txt"]]}', '{"files": ["a.png"]}']
)
def test_other_files_are_left_alone(listed: str, tmp_path: Path) -> None:
    """A folder with any other file is refused, whatever its list holds."""
    (tmp_path / "note.txt").write_text("mine")
    (tmp_path / LIST).write_text(listed)
    with pytest.raises(OSError, match=r"holds other files, such as note\.txt"):
        Folder(tmp_path)
    assert "mine" == (tmp_path / "note.txt").read_text()


def test_names_are_plain_and_different() -> None:
    """Names of photos become names of files on any system."""
    photos = [
        "a/bird.jpg",
        "b/BIRD.png",
        "c/bird.2.jpg",
        "../..",
        "-",
        "naïve \udce9\n.jpg",
        "x" * 300 + ".jpg",
        "鳥.jpg",
    ]
    expected = ["bird", "BIRD.2", "bird.2.2", "photo", "photo.2", "na-ve", "x" * 60, "photo.3"]
    assert expected == names_of(photos)
