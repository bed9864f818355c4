"""`fieldmark demo`: pictures, words, and what it refuses."""

import json
from pathlib import Path

import pytest
from PIL import Image

from service.cli import main
from service.samples.plates import PLATES
from tests.service.tiny_model import LABELS

_ENDINGS = ("", "-why", "-why-not", "-marks", "-repainted", "-beside")


def test_plates_of_the_bundled_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each plate gets its pictures and words; the numbers printed are those of the file."""
    out = tmp_path / "demo"
    assert main(["demo", str(out), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "drawings made for fieldmark, no photos" in said
    results = json.loads((out / "demo.json").read_text())["results"]
    for plate in PLATES:
        result = results[plate.name]
        assert f"{plate.name}: {plate.label} ({result['predictions'][0]['probability']:.1%})" in said
        assert plate.rival == result["versus"]["label"]
        assert result["repainted"]["missed"]
        assert f"  its {plate.mark} painted {plate.paint}: " in said
        assert [f"{plate.name}{ending}.png" for ending in _ENDINGS] == result["files"]
        assert plate.picture() == (out / f"{plate.name}.png").read_bytes()
        for name in result["files"]:
            with Image.open(out / name) as picture:
                picture.load()
    assert f"fieldmark explain {out}/{PLATES[0].name}.png --versus '{PLATES[0].rival}'" in said


def test_photos_of_the_user(marked_model: str, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad photo is named and does not stop the others; the class is contrasted with the second likeliest."""
    out = tmp_path / "demo"
    assert main(["demo", str(out), photo, "no-such.jpg", photo, "--model", marked_model]) == 1
    shown = capsys.readouterr()
    assert "no-such.jpg: No such file or directory.\n" == shown.err
    assert f"red: {LABELS[0]} (" in shown.out
    assert "red.2: " in shown.out
    assert "drawings" not in shown.out
    expected = ["demo.json", *(f"red{two}-{view}.png" for two in ("", ".2") for view in ("why", "why-not", "marks"))]
    assert sorted(expected) == sorted(path.name for path in out.iterdir())


def test_a_model_of_other_things(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It answers the plates, without marks, and the demo says that it does not know the birds; as JSON all the same."""
    assert main(["demo", str(tmp_path / "demo"), "--model", model]) == 0
    said = capsys.readouterr().out
    assert f"This model does not know {PLATES[0].label}, " in said
    assert f"fieldmark serve --model {model}" in said
    assert main(["demo", str(tmp_path / "demo"), "--model", model, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [plate.name for plate in PLATES] == list(results)
    assert {False} == {name.endswith("-marks.png") for result in results.values() for name in result["files"]}


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("mine", "mine holds other files, such as note.txt: choose an empty folder, or a new one"),
        ("mine/note.txt", "note.txt is a file: name a folder first, as by `fieldmark demo DIR PHOTO`"),
        ("mine/note.txt/demo", "note.txt is a file, not a folder"),
        ("/proc/demo", "/proc/demo could not be written"),
    ],
)
def test_folders_that_are_refused(folder: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One plain sentence, before the model is read."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("mine")
    assert main(["demo", str(tmp_path / folder), "--model", "none.onnx"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert ["note.txt"] == [path.name for path in (tmp_path / "mine").iterdir()]
