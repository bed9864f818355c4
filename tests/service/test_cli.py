"""The command line: flags, and errors in one plain line."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from service.cli import main
from service.settings import Settings


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a red picture."""
    path = tmp_path_factory.mktemp("photos") / "red.png"
    Image.new("RGB", (40, 20), (250, 10, 10)).save(path)
    return str(path)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The version is the distribution's; beside it stand the runtime's and its providers."""
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"fieldmark \S+, ONNX Runtime \S+ \(.*CPUExecutionProvider.*\)", line)


def test_completion_knows_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The script completes commands, options and listed values."""
    assert main(["completion"]) == 0
    script = capsys.readouterr().out
    for words in ("demo", "*\\ doctor\\ -*)", "--warmup-s", "'explain --colormap') words='turbo viridis inferno jet'"):
        assert words in script


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
