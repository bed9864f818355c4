"""The command measures and prints a report."""

import argparse
import json
from pathlib import Path

import pytest

from service.commands.bench import command as bench
from tests.service.running import Running
from tests.service.tiny_model import tiny_model


def test_command_prints_a_report(tiny_server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against a running server the command measures every size and load, and the ceiling beside them."""
    model = tmp_path / "tiny" / "1.onnx"
    model.parent.mkdir()
    model.write_bytes(tiny_model())
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    common = ["--url", tiny_server.url, "--model", str(tmp_path), "--seconds", "0.2", "--warmup-s", "0"]
    assert bench.run(parser.parse_args([*common, "--concurrency", "2", "--sizes", "32x24", "--json"])) == 0
    found = json.loads(capsys.readouterr().out)["sizes"]["32x24"]
    assert found["loads"][0]["name"] == "closed, C = 2"
    assert 3 == len(found["loads"])
    assert all(load["ratio"] >= 0 for load in found["loads"])
    short = ["--concurrency", "1", "--no-open-loop", "--no-ceiling", "--endpoint", "explain", "--accept", "jpeg"]
    assert bench.run(parser.parse_args([*common, *short])) == 0
    assert "closed, C = 1" in capsys.readouterr().out
