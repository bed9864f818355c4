"""`fieldmark doctor`: one line a check."""

import json
import logging
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.cli import main


@pytest.fixture(autouse=True)
def unchanged_level() -> Iterator[None]:
    """Restore the levels of the loggers that the command sets."""
    loggers = [logging.getLogger(name) for name in ("service.inference", "service.inference.files.priors")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def test_a_working_installation(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No check fails; a free port is found for port 0."""
    assert main(["doctor", "--model", model, "--port", "0", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["installed", "runtime", "model", "photos", "training", "port"] == [
        line.split(":")[0].split()[-1] for line in lines
    ]
    assert set() == {line.split()[0] for line in lines} - {"ok", "warning"}
    assert lines[2].startswith("ok       model:     tiny version 1 loads, answers as at its export, and runs on CPU")


def test_without_heif_no_heic(model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The formats that are read, and how to have the one that is not."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert main(["doctor", "--model", model, "--port", "0", "--device", "cpu"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.split(":")[0].endswith("photos"))
    assert line.startswith("warning")
    assert ("AVIF, but no HEIC: pip install 'fieldmark[heif]'", 1) == (line[-48:], line.count("HEIC"))


def test_refused_priors_are_reported(model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A table of priors beside the model that is not valid is named, with its row."""
    copy = shutil.copy(model, tmp_path)
    (tmp_path / "priors.csv").write_text("class,May\nNobody,1\n")
    assert main(["doctor", "--model", str(copy), "--port", "0", "--device", "cpu"]) == 0
    assert "priors.csv, row 2: the model has no class 'Nobody'" in caplog.text


def test_what_does_not_work(capsys: pytest.CaptureFixture[str]) -> None:
    """A missing model and a port in use fail, each in a line that says why; the exit code says so, too."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["doctor", "--model", "no such.onnx", "--port", str(port), "--json"]) == 1
    checks = {one["check"]: one for one in json.loads(capsys.readouterr().out)["checks"]}
    assert ("failed", "failed", "ok") == tuple(checks[name]["status"] for name in ("model", "port", "runtime"))
    assert "no such.onnx" in checks["model"]["words"]
    assert f"port {port} on 127.0.0.1 cannot be listened on: Address already in use" in checks["port"]["words"]
