"""`fieldmark doctor`: one line a check."""

import json
import logging
import socket
from collections.abc import Iterator

import pytest

from service.cli import main


@pytest.fixture(autouse=True)
def unchanged_level() -> Iterator[None]:
    """Restore the level of the logger that the command silences."""
    logger = logging.getLogger("service.inference")
    level = logger.level
    yield
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


def test_what_does_not_work(capsys: pytest.CaptureFixture[str]) -> None:
    """A missing model and a port in use fail, each in a line that says why; the exit code says so, too."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["doctor", "--model", "no such.onnx", "--port", str(port), "--json"]) == 1
    checks = {one["check"]: one for one in json.loads(capsys.readouterr().out)["checks"]}
    assert ("failed", "failed", "ok") == tuple(checks[name]["status"] for name in ("model", "port", "runtime"))
    assert "no such.onnx" in checks["model"]["words"]
    assert f"port {port} on 127.0.0.1 cannot be listened on: Address already in use" in checks["port"]["words"]
