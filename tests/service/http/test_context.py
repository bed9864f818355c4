"""The record of one request, and its headers in the answer."""

import re

import httpx
import pytest

from service.http.context import RequestContext, context_of
from service.metrics import STAGES
from tests.service.running import Running


@pytest.mark.parametrize(
    ("path", "accept", "stages"),
    [
        ("/classify", "application/json", ["decode", "queue", "infer"]),
        ("/explain?view=panel", "image/png", ["decode", "queue", "infer", "render"]),
        ("/explain", "application/json", ["decode", "queue", "infer", "render"]),
    ],
)
def test_times_equal_those_of_the_metrics(
    tiny_server: Running, red_png: bytes, path: str, accept: str, stages: list[str]
) -> None:
    """Each stage in `Server-Timing` is the increase of that stage's histogram."""
    value = tiny_server.runtime.metrics.registry.get_sample_value

    def sums() -> dict[str, float]:
        tiny_server.runtime.metrics.exposition(None)
        return {stage: value("fieldmark_stage_duration_seconds_sum", {"stage": stage}) or 0.0 for stage in STAGES}

    before = sums()
    with tiny_server.client() as client:
        answer = client.post(path, content=red_png, headers={"Accept": accept, "Content-Type": "image/png"})
    after = sums()
    timing = dict(re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"]))
    assert [*stages, "total"] == list(timing)
    grown = {stage: round((after[stage] - before[stage]) * 1e3, 2) for stage in stages}
    assert pytest.approx(grown, abs=0.011) == {stage: float(timing[stage]) for stage in stages}


def test_several_images_show_their_longest_stage() -> None:
    """They run side by side: the sum would be longer than the request."""
    context = RequestContext([])
    context.observe({"decode": 0.002, "queue": 0.001})
    context.observe({"decode": 0.001, "queue": 0.003, "render": 0.004})
    assert b"decode;dur=2.00, queue;dur=3.00, render;dur=4.00, total;dur=" in context.server_timing()


@pytest.mark.parametrize(
    ("sent", "kept"), [(b"abc-1", True), (b"a" * 129, False), (b"a b", False), ("é".encode(), False), (b"", False)]
)
def test_request_id_is_kept_where_it_is_valid(sent: bytes, kept: bool) -> None:
    """An id that could break a log line or a header is replaced."""
    context = RequestContext([(b"x-request-id", sent)])
    assert kept == (context.request_id == sent.decode())
    assert re.fullmatch(r"[A-Za-z0-9._:/+=-]{1,128}", context.request_id)


def test_one_context_a_request(client: httpx.Client) -> None:
    """The first call creates it unless the protocol has; every later call returns the same."""
    scope = {"type": "http", "headers": [(b"x-request-id", b"one")]}
    assert context_of(scope) is context_of(scope)
    assert "one" == context_of(scope).request_id
    assert "two" == client.get("/livez", headers={"X-Request-Id": "two"}).headers["x-request-id"]
