"""The commands print the service's answers, and errors in one plain line."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from model.contract.manifest import Manifest
from service.cli import main
from service.http.api.schemas import Classification, Explanation
from service.settings import Settings
from tests.service.tiny_model import LABELS, tiny_manifest, tiny_model, tiny_self_check


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a tiny model file."""
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    path.write_bytes(tiny_model())
    return str(path)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a red picture."""
    path = tmp_path_factory.mktemp("photos") / "red.png"
    Image.new("RGB", (40, 20), (250, 10, 10)).save(path)
    return str(path)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The version is the distribution's."""
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("fieldmark ")


def test_every_setting_is_a_flag_of_serve(capsys: pytest.CaptureFixture[str]) -> None:
    """Every setting has a flag."""
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    text = capsys.readouterr().out
    assert [] == [name for name in Settings.model_fields if f"--{name.replace('_', '-')} " not in text]


@pytest.mark.parametrize("flag", ["--host", "--model", "--api-keys-file", "--admin-key-file"])
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_value_is_refused(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty host would listen on every address, an empty path would be the current folder."""
    assert main(["serve", flag, value, "--port", "0"]) == 2
    assert f"fieldmark: {flag}: must not be empty, not {value!r}\n" == capsys.readouterr().err


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


def test_inspect_as_json_is_the_manifest(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything the manifest holds, with the file's size and hash."""
    assert main(["inspect", model, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert Path(model).stat().st_size == facts.pop("bytes")
    assert 64 == len(facts.pop("sha256"))
    assert model == facts.pop("file")
    assert tiny_manifest(self_check=tiny_self_check()) == Manifest.model_validate(facts)


def test_inspect_is_readable(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The output names classes, input, layers and precision."""
    assert main(["inspect", model]) == 0
    text = capsys.readouterr().out
    for fact in ("4: Red bird", "RGB 8×8", "0: pixels, 3 channels, 8×8", "fp32"):
        assert fact in text


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (tiny_manifest(self_check=tiny_self_check(offset=1.0)), "the self-check is off by 1"),
        (tiny_manifest(layers=tiny_manifest().layers * 2), "the graph has only 1"),
    ],
)
def test_inspect_refuses_what_the_service_would(
    manifest: Manifest, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that loads, but does not compute as its manifest states, is refused."""
    path = tmp_path / "1.onnx"
    path.write_bytes(tiny_model(manifest))
    assert main(["inspect", str(path)]) == 1
    assert reason in capsys.readouterr().err


def test_refused_models_are_refused_with_the_reason(
    photo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a wrong file nor a missing one ends in a traceback."""
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    for path in (broken, tmp_path / "missing.onnx"):
        for command in (["inspect", str(path)], ["classify", photo, "--model", str(path)]):
            assert main(command) == 1
            assert capsys.readouterr().err.startswith("fieldmark: ")


def test_wrong_settings_name_their_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """A setting that cannot be read stops the server before it starts."""
    assert main(["serve", "--max-files", "many"]) == 2
    assert "--max-files" in capsys.readouterr().err


def test_serve_without_its_keys(tmp_path: Path) -> None:
    """A key file that cannot be read stops the server in one line, rather than leaving it open."""
    command = [Path(sys.executable).with_name("fieldmark"), "serve", "--port", "0"]
    run = subprocess.run([*command, "--api-keys-file", tmp_path / "keys"], capture_output=True, text=True)
    assert (1, f"fieldmark: no key can be read from {tmp_path / 'keys'}\n") == (run.returncode, run.stderr)


@pytest.mark.parametrize(
    ("photo", "said"),
    [
        (".", ".: This is a folder: give the photos in it, as by `FOLDER/*.jpg`."),
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


def test_a_bad_model_is_named(tmp_path: Path, photo: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every message about a file contains its name."""
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"\xff\xff")
    for command in (["inspect", str(bad)], ["classify", photo, "--model", str(bad)]):
        assert main(command) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{bad}: not an ONNX file" in line
    assert main(["inspect", str(tmp_path)]) == 1
    assert f"fieldmark: {tmp_path.name} cannot be read: Is a directory" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["--sizes=abc", "--sizes=4x", "--sizes=0x4", "--concurrency=x", "--concurrency=0"])
def test_bench_refuses_wrong_numbers(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong sizes and counts are refused before anything starts, with the command's usage."""
    with pytest.raises(SystemExit) as stopped:
        main(["bench", wrong, "--model", "none"])
    shown = capsys.readouterr().err
    assert (2, True) == (stopped.value.code, shown.startswith("usage: fieldmark bench"))
