"""The measuring tools against known loads, and against what the server and numpy count."""

from pathlib import Path

import numpy as np
import pytest

from service.commands.bench.loadgen import REFUSED, Outcome, Plan
from service.commands.bench.measure import measure, run_load, summarise
from service.commands.bench.servers import Server, free_port
from tests.service.running import Running


def plan_for(server: Running, photos: list[Path], **options: object) -> Plan:
    """Return a plan that classifies these photos."""
    fields = {"seconds": 60.0, **options}
    return Plan("127.0.0.1", server.port, "/classify", [str(photo) for photo in photos], **fields)  # type: ignore[arg-type]


def requests_counted(server: Running) -> dict[str, float]:
    """Return how many classifications the server has counted, by code."""
    server.until(lambda: server.in_flight() == 0)
    value = server.runtime.metrics.registry.get_sample_value
    labels = {"route": "/classify", "method": "POST"}
    return {code: value("fieldmark_http_requests_total", {**labels, "code": code}) or 0.0 for code in ("200", "422")}


def test_closed_loop_counts_every_request(tiny_server: Running, photos: list[Path]) -> None:
    """Photos are sent in turn, and the server counts the same answers; its CPU time is read."""
    counted = requests_counted(tiny_server)
    plan = plan_for(tiny_server, photos[:2], concurrency=4, max_requests=40, probe="/livez")
    load = measure(Server(tiny_server.url), plan, "closed")
    assert ({"200": 20, "422": 20}, 40) == (load.codes, load.requests)
    assert {"200": 20, "422": 20} == {
        code: count - counted[code] for code, count in requests_counted(tiny_server).items()
    }
    assert load.cpu_ms is not None
    assert (load.client_cpu_ms or 0) > 0
    assert load.loop_lag_p99_ms is not None


def test_latencies_are_those_of_the_server_and_more(tiny_server: Running, photos: list[Path]) -> None:
    """Every latency is recorded, none shorter than the server's own time; quantiles are numpy's."""
    labels = {"route": "/classify"}
    value = tiny_server.runtime.metrics.registry.get_sample_value
    before = value("fieldmark_http_request_duration_seconds_sum", labels) or 0.0
    outcome = run_load(plan_for(tiny_server, photos[:1], concurrency=2, max_requests=30))
    tiny_server.until(lambda: tiny_server.in_flight() == 0)
    inside = (value("fieldmark_http_request_duration_seconds_sum", labels) or 0.0) - before
    latencies = [latency for _, latency, _, _ in outcome.requests]
    assert (30, True) == (len(latencies), sum(latencies) > inside > 0)
    load = summarise("closed", outcome)
    expected = [float(np.percentile(latencies, percent)) * 1e3 for percent in (50, 95, 99)]
    assert pytest.approx(expected) == [load.p50_ms, load.p95_ms, load.p99_ms]
    assert pytest.approx(30 / outcome.seconds) == load.per_s


def test_rounds_are_summed_up_together() -> None:
    """Rates and CPU times are of all rounds; a round without CPU time leaves none."""
    rounds = [
        Outcome(1.0, [(0.0, 0.010, 200, 0)] * 10, cpu_s=0.1),
        Outcome(3.0, [(0.0, 0.030, 200, 0)] * 10, cpu_s=0.3),
    ]
    load = summarise("x", *rounds)
    assert (20, 5.0, 20.0, None) == (load.requests, load.per_s, pytest.approx(load.cpu_ms), load.loop_cpu_ms)
    assert pytest.approx(20.0) == load.p50_ms
    assert summarise("x", *rounds, Outcome(1.0, [(0.0, 0.010, 200, 0)])).cpu_ms is None


def test_open_loop_sends_what_was_planned(tiny_server: Running, photos: list[Path]) -> None:
    """Requests are sent at their times, whether or not earlier ones are answered."""
    load = measure(Server(tiny_server.url), plan_for(tiny_server, photos[:1], seconds=0.5, rate=60.0), "open")
    assert {"200": 30} == load.codes


def test_refused_connections_are_counted(photos: list[Path]) -> None:
    """Without a server every request counts as refused, and the load ends."""
    plan = Plan("127.0.0.1", free_port(), "/classify", [str(photos[0])], 5.0, concurrency=2, max_requests=6)
    outcome = run_load(plan)
    assert {REFUSED} == {code for _, _, code, _ in outcome.requests}


def test_summary_takes_good_answers_only() -> None:
    """Latencies are of good answers only; refusals have their own figure."""
    requests = [(0.0, 0.010, 200, 0)] * 99 + [(0.0, 1.0, 200, 0)] + [(0.0, 0.002, 429, 0)] * 50 + [(0.0, 9.0, 500, 0)]
    load = summarise("x", Outcome(10.0, requests, [0.001, 0.003], cpu_s=1.51))
    assert (10.0, 10.0) == (load.per_s, pytest.approx(load.p50_ms))
    assert {"200": 100, "429": 50, "500": 1} == load.codes
    assert (2.0, 10.0, 2.0) == (
        pytest.approx(load.refusal_p99_ms),
        pytest.approx(load.cpu_ms),
        pytest.approx(load.loop_lag_p50_ms),
    )
