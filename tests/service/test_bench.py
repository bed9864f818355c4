"""The measuring tools, measured themselves: a load that is known, quantiles that are known."""

import argparse
import json
from pathlib import Path

import pytest

from model.photo.decode import decode_image
from service import bench
from service.bench import Server, find_photos, measure, photos_of_size, run_ceiling, summarise, synthetic_photo
from service.loadgen import REFUSED, Outcome, Plan, _arrivals
from tests.service.conftest import encoded
from tests.service.running import Running
from tests.service.tiny_model import tiny_model


def plan_for(server: Running, photos: list[Path], **options: object) -> Plan:
    """Return a plan that classifies these photos."""
    fields = {"seconds": 60.0, **options}
    return Plan("127.0.0.1", server.port, "/classify", [str(photo) for photo in photos], **fields)  # type: ignore[arg-type]


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Return a good photo and a corrupt one."""
    good, bad = tmp_path / "good.png", tmp_path / "bad.jpg"
    good.write_bytes(encoded("red"))
    bad.write_bytes(encoded("red", (64, 64), "JPEG")[:200])
    return [good, bad]


def test_closed_loop_counts_every_request(tiny_server: Running, photos: list[Path]) -> None:
    """Photos are sent in turn; each answer is counted under its code; the server's CPU time is read."""
    plan = plan_for(tiny_server, photos, concurrency=4, max_requests=40, probe="/livez")
    load = measure(Server(tiny_server.url), plan, "closed")
    assert ({"200": 20, "422": 20}, 40) == (load.codes, load.requests)
    assert 0 < load.p50_ms <= load.p95_ms <= load.p99_ms
    assert load.cpu_ms is not None
    assert load.loop_lag_p99_ms is not None


def test_open_loop_sends_what_was_planned(tiny_server: Running, photos: list[Path]) -> None:
    """Requests leave at their times whatever becomes of the earlier ones."""
    load = measure(Server(tiny_server.url), plan_for(tiny_server, photos[:1], seconds=0.5, rate=60.0), "open")
    assert {"200": 30} == load.codes


def test_refused_connections_are_counted(photos: list[Path]) -> None:
    """A server that is not there refuses every request, and the load ends nevertheless."""
    plan = Plan("127.0.0.1", bench.free_port(), "/classify", [str(photos[0])], 5.0, concurrency=2, max_requests=6)
    outcome = bench.run_load(plan)
    assert {REFUSED} == {code for _, _, code, _ in outcome.requests}


def test_arrivals() -> None:
    """Even arrivals are evenly spaced; random ones are as many on average, and the same for the same seed."""
    even = _arrivals(Plan("", 0, "", [], 2.0, rate=4.0))
    assert [0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75] == even
    plan = Plan("", 0, "", [], 100.0, rate=50.0, poisson=True, seed=7)
    assert _arrivals(plan) == _arrivals(plan)
    assert 5000 == pytest.approx(len(_arrivals(plan)), rel=0.05)


def test_summary_takes_good_answers_only() -> None:
    """Latency is that of good answers; refusals have a line of their own."""
    requests = [(0.0, 0.010, 200, 0)] * 99 + [(0.0, 1.0, 200, 0)] + [(0.0, 0.002, 429, 0)] * 50 + [(0.0, 9.0, 500, 0)]
    load = summarise("x", Outcome(10.0, requests, [0.001, 0.003]), cpu_s=1.51)
    assert (10.0, 10.0) == (load.per_s, pytest.approx(load.p50_ms))
    assert {"200": 100, "429": 50, "500": 1} == load.codes
    assert (2.0, 10.0, 2.0) == (
        pytest.approx(load.refusal_p99_ms),
        pytest.approx(load.cpu_ms),
        pytest.approx(load.loop_lag_p50_ms),
    )


def test_ceiling(tmp_path: Path, photos: list[Path]) -> None:
    """The ceiling is measured with the same decode and session, in a process of its own."""
    model = tmp_path / "1.onnx"
    model.write_bytes(tiny_model())
    found = run_ceiling(model, photos[:1], 0.2)
    assert min(found.images_per_s, found.decode_s, found.run_s, found.cpu_s) > 0
    assert found.image_s >= max(found.decode_s, found.run_s)


def test_photos(tmp_path: Path) -> None:
    """Synthetic and scaled photos have the size asked for, and are the same every time."""
    assert synthetic_photo(64, 48, seed=3) == synthetic_photo(64, 48, seed=3)
    path = tmp_path / "wide.png"
    path.write_bytes(encoded("green", (300, 100)))
    for data in (synthetic_photo(64, 48), *photos_of_size([path], (64, 48))):
        decoded = decode_image(data)
        assert (64, 48, "JPEG") == (decoded.width, decoded.height, decoded.format)
    assert [path] == find_photos([tmp_path], 3)


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
