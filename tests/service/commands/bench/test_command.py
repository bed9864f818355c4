"""The command measures and prints a report."""

import argparse
import json
import socket
from pathlib import Path

import pytest

from service.cli import main
from service.commands.bench import command as bench
from tests.service.running import Running
from tests.service.tiny_model import tiny_model


def test_nothing_to_measure_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody listens, no photo is there, no time is given: a line, and an exit code."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    quick = ["bench", "--url", nobody, "--seconds", "0.1", "--warmup-s", "0", "--rounds", "1", "--no-ceiling"]
    for arguments, said in (
        ([*quick, "--concurrency", "1"], "of closed, C = 1 no request was answered: connection refused ("),
        ([*quick, "--photos", str(tmp_path)], f"{tmp_path}: no photos."),
    ):
        assert main(arguments) != 0
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    for option, value, said in (("--seconds", "-1", "-1 is not 0 or more"), ("--seconds", "0", "0 is not above 0"),
                                ("--rounds", "0", "0 is not 1 or more")):  # fmt: skip
        with pytest.raises(SystemExit):
            main([*quick, option, value])
        assert f"argument {option}: {said}" in capsys.readouterr().err


def test_command_prints_a_report(tiny_server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against a running server the command measures every size and load, and the ceilings between them."""
    model = tmp_path / "tiny" / "1.onnx"
    model.parent.mkdir()
    model.write_bytes(tiny_model())
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    common = ["--url", tiny_server.url, "--model", str(tmp_path), "--seconds", "0.2", "--warmup-s", "0"]
    common += ["--rounds", "1", "--rate", "50"]
    runs = tiny_server.runs()
    assert bench.run(parser.parse_args([*common, "--concurrency", "2", "--sizes", "32x24", "--json"])) == 0
    found = json.loads(capsys.readouterr().out)["sizes"]["32x24"]
    loads, ceilings = found["loads"], found["ceilings_per_s"]
    assert ["closed, C = 2", "open, even, 50/s", "open, Poisson, 50/s"] == [load["name"] for load in loads]
    assert all([load["requests"]] == list(load["codes"].values()) for load in loads)
    assert sum(load["requests"] for load in loads) == tiny_server.runs() - runs > 0
    # In one round the ceilings are measured before, between and after the loads: two of the first group, three of
    # the second.
    around = [(ceilings[index] + ceilings[index + 1]) / 2 for index in (0, 2, 3)]
    expected = [load["per_s"] / ceiling for load, ceiling in zip(loads, around, strict=True)]
    assert pytest.approx(expected) == [load["ratio"] for load in loads]
    assert pytest.approx(sum(ceilings) / 5) == found["ceiling"]["images_per_s"]
    short = ["--concurrency", "1", "--no-open-loop", "--no-ceiling", "--endpoint", "explain", "--accept", "jpeg"]
    assert bench.run(parser.parse_args([*common, *short])) == 0
    assert "closed, C = 1" in capsys.readouterr().out
