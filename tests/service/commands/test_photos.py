"""`fieldmark classify` and `explain`: the service's answers, and errors in one plain line."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.contract.sets import SetGroup, Sets, write_missed
from model.contract.taxonomy import Taxonomy
from service.cli import main
from service.http.api.schemas import Classification, Explanation, Individual
from tests.service.tiny_model import LABELS, tiny_manifest, tiny_model


def test_classify_prints_the_likeliest_first(model: str, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The output has the size, percentages, bars and labels."""
    assert main(["classify", photo, "--model", model, "--top-k", "2"]) == 0
    head, first, *rest = capsys.readouterr().out.splitlines()
    assert f"{photo}  40×20" == head
    assert first.endswith(LABELS[0])
    assert "█" in first
    assert len(rest) == 1


def test_classify_as_json_is_the_services_answer(model: str, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One photo in, one flat result out."""
    assert main(["classify", photo, "--model", model, "--json", "--threshold", "0.99"]) == 0
    answer = Classification.model_validate_json(capsys.readouterr().out)
    assert (LABELS[0], "red.png", 40, 20, False) == (
        answer.predictions[0].label,
        answer.filename,
        answer.width,
        answer.height,
        answer.accepted,
    )


def test_one_bad_photo_does_not_stop_the_others(
    model: str, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results are in order, a bad photo has a problem in its place, and the exit code is 1."""
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "empty.jpg").touch()
    photos = [str(tmp_path / "note.txt"), photo, str(tmp_path / "nothing.jpg"), str(tmp_path / "empty.jpg"), photo]
    assert main(["classify", *photos, "--model", model, "--json"]) == 1
    results = json.loads(capsys.readouterr().out)["results"]
    expected = ["unsupported_image_type", None, "malformed_request", "empty_input", None]
    assert expected == [result.get("code") for result in results]
    assert main(["classify", *photos, "--model", model]) == 1
    shown = capsys.readouterr()
    assert shown.out.count("40×20") == 2
    assert len(shown.err.splitlines()) == 3


def test_photo_from_standard_input(model: str, photo: str) -> None:
    """A dash reads the standard input, so that commands can be chained."""
    command = [sys.executable, "-m", "service.cli", "classify", "-", "--model", model]
    done = subprocess.run(command, input=Path(photo).read_bytes(), capture_output=True, check=True)
    assert LABELS[0] in done.stdout.decode()
    assert b"" == done.stderr


@pytest.mark.parametrize(("name", "format_"), [("o.png", "PNG"), ("o.webp", "WEBP"), ("o.jpg", "JPEG")])
@pytest.mark.parametrize("view", ["overlay", "gradcam", "attention", "panel"])
def test_explain_writes_a_picture(model: str, photo: str, tmp_path: Path, name: str, format_: str, view: str) -> None:
    """The name's ending chooses the format; all views but the panel have the photo's size."""
    out = tmp_path / name
    assert main(["explain", photo, "-o", str(out), "--model", model, "--view", view]) == 0
    picture = Image.open(io.BytesIO(out.read_bytes()))
    assert format_ == picture.format
    assert (picture.size == (40, 20)) == (view != "panel")


def test_explain_as_json(model: str, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same facts as the service's answer, with the picture's path for its data URLs."""
    out = str(tmp_path / "o.png")
    assert main(["explain", photo, "-o", out, "--model", model, "--json", "--versus", "rank:2"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert out == answer.pop("picture")
    for name in ("gradcam", "gradcam_versus", "attention"):
        answer[name]["png"] = ""
    explained = Explanation.model_validate(answer)
    assert (LABELS[0], [8, 8]) == (explained.target.label, explained.gradcam.shape)
    assert explained.versus is not None


@pytest.mark.parametrize("layer", ["pixels", "0"])
def test_explain_takes_a_layer(
    model: str, photo: str, tmp_path: Path, layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A layer is chosen by its name or by its index."""
    assert main(["explain", photo, "-o", str(tmp_path / "o.png"), "--model", model, "--json", "--layer", layer]) == 0
    assert "pixels" == json.loads(capsys.readouterr().out)["layer"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "red brid"], "Similar: Red bird"),
        (["--target", "rank:9"], "whole number"),
        (["--target", "rank:1", "--versus", "class:0"], "the same class"),
        (["--layer", "5"], "`pixels`"),
        (["--layer", "pixel"], "`pixels`"),
        (["--opacity", "7"], "--opacity"),
        (["--size", "big"], "--size"),
        (["--view", "sideways"], "--view"),
        (["--colormap", "rainbow"], "--colormap"),
        (["-o", "picture.gif"], "must end in"),
        (["-o", "/nowhere/picture.png"], "No such file"),
    ],
)
def test_explain_names_the_error(
    model: str, photo: str, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on stderr, an exit code, no traceback and no picture."""
    out = tmp_path / "o.png"
    assert main(["explain", photo, "-o", str(out), "--model", model, *arguments]) in (1, 2)
    shown = capsys.readouterr()
    assert message in shown.err
    assert (1, "") == (len(shown.err.splitlines()), shown.out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("photo", "said"),
    [
        ("https://example.org/a.jpg", "https://example.org/a.jpg: This is an address: fetch it first"),
        ("no/such\n.jpg", "no/such .jpg: No such file or directory."),
        (b"caf\xe9.jpg".decode("utf-8", "surrogateescape"), "caf\\udce9.jpg: No such file or directory."),
    ],
)
def test_what_is_no_photo_is_refused_with_advice(
    model: str, photo: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line each, from both commands."""
    assert main(["classify", photo, "--model", model]) == 1
    assert main(["explain", photo, "-o", str(tmp_path / "o.png"), "--model", model]) == 1
    of_classify, of_explain = capsys.readouterr().err.encode("utf-8", "backslashreplace").decode().splitlines()
    assert (True, True) == (of_classify.startswith(said), of_explain.startswith(f"fieldmark: {said}"))


@pytest.mark.parametrize("out", ["file/o.png", "folder.png", "/proc/nothing/o.png"])
def test_explain_checks_its_target_before_the_model(
    out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unwritable target is refused before the model is read."""
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    assert main(["explain", "none.jpg", "-o", str(tmp_path / out), "--model", "none.onnx"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / out} could not be written" in line


def test_explain_does_not_overwrite_the_photo(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under whatever name; nor are pictures of a folder put among its photos, nor into a folder named `-`."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 20), "red").save("photo.png")
    before = Path("photo.png").read_bytes()
    for out, said in (
        ("photo.png", "the photo itself"),
        (f"{tmp_path}/./photo.png", "the photo itself"),
        ("-", "no folder"),
    ):
        assert main(["explain", "photo.png", "-o", out, "--model", model]) != 0
        assert f"{out}: that is {said}" in capsys.readouterr().err.replace(str(Path(out)), out)
    assert main(["explain", ".", "-o", str(tmp_path), "--model", model]) != 0
    assert "that is the folder of the photos; name another" in capsys.readouterr().err
    assert ([Path("photo.png")], before) == ([*Path().iterdir()], Path("photo.png").read_bytes())


def test_classify_prints_the_marks(marked_model: str, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Under the classes: each mark with how surely it is seen, how typical it is, and its place or that it has none."""
    assert main(["classify", photo, "--model", marked_model, "--top-k", "1", "--marks", "2"]) == 0
    assert [
        "  red crown: seen 98%, typical 90%; at 11, 1",
        "  чёрный глаз: seen 98%, typical 80%; its place is not known",
    ] == capsys.readouterr().out.splitlines()[2:]
    assert main(["classify", photo, "--model", marked_model, "--marks", "2", "--json"]) == 0
    answer = Classification.model_validate_json(capsys.readouterr().out)
    assert ["red crown", "чёрный глаз"] == [mark.name for mark in answer.marks or []]


def test_classify_prints_what_is_like_none(
    marked_model: str, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A photo like none of the classes says so beside its nearest names; one that is known says nothing."""
    white = str(tmp_path / "white.png")
    Image.new("RGB", (40, 20), "white").save(white)
    assert main(["classify", white, photo, "--model", marked_model, "--top-k", "1"]) == 0
    first, nearest, second, _ = capsys.readouterr().out.splitlines()
    assert f"{white}  40×20  like none of the 4 classes; the nearest:" == first
    assert any(nearest.endswith(label) for label in LABELS)
    assert f"{photo}  40×20" == second
    assert main(["explain", white, "-o", str(tmp_path / "o.png"), "--model", marked_model]) == 0
    assert "  like none of the 4 classes; the nearest: " in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--marks"], ["--marks", "3"], ["--view", "marks"]])
def test_explain_prints_the_marks(
    marked_model: str, photo: str, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Three, where the number is left out, and what the other class has of them."""
    arguments = ["explain", photo, "-o", str(tmp_path / "o.png"), "--model", marked_model, "--versus", "Grey bird"]
    assert main([*arguments, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [
        "  red crown: seen 98%, typical 90% (Grey bird 40%); at 11, 1",
        "  red wing: seen 98%, typical 60% (Grey bird 40%); at 11, 1",
    ] == lines[1:3]
    assert (tmp_path / "o.png").stat().st_size > 0


def test_explain_prints_what_is_missing(
    marked_model: str, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mark that is typical and not seen is said to be missing."""
    arguments = ["explain", photo, "-o", str(tmp_path / "o.png"), "--model", marked_model, "--target", "Green bird"]
    assert main([*arguments, "--marks", "8"]) == 0
    assert "  missing: green throat: seen 2%, typical 90%" in capsys.readouterr().out.splitlines()


def test_explain_draws_one_mark(
    marked_model: str, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its map is drawn, and the output names it; in JSON the picture's path stands for its data URL."""
    out = str(tmp_path / "o.png")
    arguments = ["explain", photo, "-o", out, "--model", marked_model, "--mark", "red wing"]
    assert main(arguments) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert f"{out}: overlay of red wing, Red bird (90.6%)" == first
    assert "  red wing: seen 98%, typical 60%; at 11, 1" == second
    assert main([*arguments, "--json"]) == 0
    mark = json.loads(capsys.readouterr().out)["mark"]
    assert ("red wing", [8, 8], False) == (mark["name"], mark["shape"], "png" in mark)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mark", "red crwn"], "No mark has this name. Similar: red crown"),
        (["--mark", "mark:5"], "`mark:` takes a whole number from 0 to 4"),
        (["--marks", "9"], "--marks: input should be less than or equal to 8"),
        (["--mark", "rank:1", "--view", "marks"], "does not show the map of one `mark`"),
    ],
)
def test_marks_that_are_refused(
    marked_model: str, photo: str, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on stderr, no picture."""
    out = tmp_path / "o.png"
    assert main(["explain", photo, "-o", str(out), "--model", marked_model, *options]) in (1, 2)
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_photo_is_not_the_number_of_marks(
    marked_model: str, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Behind `--marks` without its number the photo would be taken for it; the error says what to do."""
    with pytest.raises(SystemExit):
        main(["explain", "--marks", photo, "-o", str(tmp_path / "o.png"), "--model", marked_model])
    assert f"{photo!r} is not a whole number; write PATH before `--marks`" in capsys.readouterr().err


def test_a_model_without_marks_says_so(
    model: str, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both commands say that the model has none, once and in one line."""
    assert main(["classify", photo, photo, "--model", model, "--marks", "1"]) == 1
    assert main(["explain", photo, "-o", str(tmp_path / "o.png"), "--model", model, "--view", "marks"]) == 1
    assert ["fieldmark: The model tiny has no field marks."] * 2 == capsys.readouterr().err.splitlines()


@pytest.fixture(scope="module")
def with_priors(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a tiny model file with priors beside it."""
    folder = tmp_path_factory.mktemp("priors")
    rows = ["class,May,June", "Red bird,1,0", "Green bird,2,1", "Blue bird,3,0", "Grey bird,4,1"]
    (folder / "priors.csv").write_text("\n".join(rows))
    (folder / "tiny.onnx").write_bytes(tiny_model())
    return str(folder / "tiny.onnx")


def test_what_may_be_there(with_priors: str, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Candidates and a prior, in both commands; what is wrong with them in one line."""
    options = ["--model", with_priors, "--json"]
    assert main(["classify", photo, *options, "--prior", "june", "--among", "class:1", "--among", "grey bird"]) == 0
    answer = Classification.model_validate_json(capsys.readouterr().out)
    assert ("June", ["Green bird", "Grey bird"]) == (answer.prior, answer.among)
    assert ["Grey bird", "Green bird"] == [one.label for one in answer.predictions]
    out = str(tmp_path / "o.png")
    assert main(["explain", photo, "-o", out, *options, "--prior", "June", "--versus", "rank:2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert ("June", "Grey bird", "Green bird") == (found["prior"], found["target"]["label"], found["versus"]["label"])
    for wrong, line in (
        (["--prior", "Mai"], "The model has no prior of this name. Similar: May."),
        (["--among", "Blue"], "`among`, number 1: No class has this label. Similar: Blue bird."),
        (["--prior", "June", "--among", "class:0"], "The prior `June` is 0 for every class of `among`."),
    ):
        assert main(["classify", photo, *options, *wrong]) == 1
        assert f"fieldmark: {line}\n" == capsys.readouterr().err


def test_photos_of_one_individual(
    with_priors: str, photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They get one answer behind their own; a bad one does not count, and the exit code is 1."""
    (tmp_path / "note.txt").write_text("hello")
    photos = [photo, str(tmp_path / "note.txt"), photo]
    options = ["--model", with_priors, "--individual", "--top-k", "1"]
    assert main(["classify", *photos, *options]) == 1
    *_, head, line = capsys.readouterr().out.splitlines()
    assert ("all of one individual: 2 photos", True) == (head, line.endswith(LABELS[0]))
    assert main(["classify", photo, photo, *options, "--json", "--prior", "May"]) == 0
    answer = Individual.model_validate_json(capsys.readouterr().out)
    assert (2, 2, "May") == (answer.photos, len(answer.results), answer.prior)
    assert main(["classify", photos[1], *options]) == 1
    assert "" == capsys.readouterr().out


def test_sets_are_printed_with_their_taxon(photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The classes of the set in a line, and what they have in common; one class needs no taxon; in JSON as served."""
    group = SetGroup(num_photos=9, missed=write_missed(np.array([0.5, 0.03, 0.01])))
    taxonomy = Taxonomy(ranks=("genus",), rows=(("Ruber",), ("Viridis",), ("Caerulus",), ("Ruber",)))
    model = tmp_path / "sets.onnx"
    model.write_bytes(tiny_model(tiny_manifest(sets=Sets(groups=(group,)), taxonomy=taxonomy)))
    shown = []
    for coverage in ("0.5", "0.8", "0.999"):
        assert main(["classify", photo, "--model", str(model), "--coverage", coverage]) == 0
        shown.append(capsys.readouterr().out.splitlines()[-1])
    assert [
        "  set: Red bird",
        "  set: Red bird, Grey bird; genus Ruber",
        "  set: Red bird, Grey bird, Green bird, Blue bird; no common taxon",
    ] == shown
    picture = str(tmp_path / "out.png")
    assert main(["explain", photo, "-o", picture, "--model", str(model), "--coverage", "0.8", "--json"]) == 0
    assert ["Red bird", "Grey bird"] == json.loads(capsys.readouterr().out)["set"]


def test_sets_of_a_model_without_are_refused(model: str, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, as are coverages that are none."""
    assert main(["classify", photo, "--model", model, "--coverage", "0.9"]) == 1
    assert "fieldmark: The model tiny has no calibration for sets.\n" == capsys.readouterr().err
    assert main(["classify", photo, "--model", model, "--coverage", "1"]) == 2
    assert "fieldmark: --coverage: input should be less than 1, not '1'\n" == capsys.readouterr().err
