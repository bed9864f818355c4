"""Traces, as a receiver on a real port decodes them with OpenTelemetry's own messages."""

import contextlib
import io
import json
import logging
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from service.http.app import create_app
from service.http.tracing.middleware import PROBES
from service.inference.runtime import Runtime
from service.logs import configure_logs
from service.settings import Settings, traces_wanted
from tests.service.running import PATIENCE_S, Running, running, tiny_settings

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
PNG = {"Content-Type": "image/png"}


@dataclass
class Receiver:
    """An OTLP receiver.

    Attributes:
        port: it listens on.
        spans: received and not yet asked for.
        resources: attributes of what sent them.
        paths: of its requests.
    """

    port: int = 0
    spans: "queue.Queue[Span]" = field(default_factory=queue.Queue)
    resources: dict[str, str] = field(default_factory=dict)
    paths: set[str] = field(default_factory=set)

    def take(self, last: str) -> list[Span]:
        """Return the spans up to the next one of this name; the span of a request comes after those below it."""
        taken = [self.spans.get(timeout=PATIENCE_S)]
        while taken[-1].name != last:
            taken.append(self.spans.get(timeout=PATIENCE_S))
        return taken


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Return a receiver."""
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = ExportTraceServiceRequest.FromString(body)
            found.paths.add(self.path)
            for resource in request.resource_spans:
                found.resources |= attributes(resource.resource.attributes)
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        found.spans.put(span)
            self.send_response(200)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    found.port = server.server_address[1]
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_other_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take out what the machine's own environment may say."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def traced(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Running, Receiver]]:
    """Return a server that exports its spans, and their receiver."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{receiver.port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=field,service.name=hide")
    with running(tiny_settings(tmp_path)) as server:
        yield server, receiver


def attributes(found: "list[KeyValue]") -> dict[str, str]:
    """Return attributes as text."""
    return {one.key: one.value.string_value or str(one.value.int_value) for one in found}


def test_stages_below_the_caller(traced: tuple[Running, Receiver], red_png: bytes) -> None:
    """A request has one span below the caller's, with its stages below it, in order and inside it."""
    server, receiver = traced
    with server.client() as client:
        headers = PNG | {"traceparent": TRACEPARENT, "X-API-Key": "secret"}
        client.post("/explain?target=Red%20bird", content=red_png, headers=headers).raise_for_status()
    *stages, request = receiver.take("POST /explain")
    assert (TRACE, CALLER) == (request.trace_id.hex(), request.parent_span_id.hex())
    assert Span.SPAN_KIND_SERVER == request.kind
    assert Status.STATUS_CODE_UNSET == request.status.code
    found = attributes(request.attributes)
    assert ("POST", "/explain", "200") == tuple(
        found[name] for name in ("http.request.method", "http.route", "http.response.status_code")
    )
    assert ("tiny", "1") == (found["fieldmark.model.name"], found["fieldmark.model.version"])
    assert ["queue", "decode", "run", "render"] == [span.name for span in stages]
    assert {(TRACE, request.span_id)} == {(span.trace_id.hex(), span.parent_span_id) for span in stages}
    times = [request.start_time_unix_nano]
    for span in stages:
        times += [span.start_time_unix_nano, span.end_time_unix_nano]
    assert sorted(times) == times
    assert times[-1] <= request.end_time_unix_nano
    assert {"/v1/traces"} == receiver.paths
    assert ("field", "hide") == (receiver.resources["deployment.environment"], receiver.resources["service.name"])
    assert "secret" not in str(request)


def test_several_images_have_a_span_each(traced: tuple[Running, Receiver], red_png: bytes) -> None:
    """Every image of a request has its own stages; file names are not exported."""
    server, receiver = traced
    with server.client() as client:
        files = [("file", ("hide-42.png", red_png, "image/png"))] * 2
        client.post("/classify", files=files).raise_for_status()
    *below, request = receiver.take("POST /classify")
    images = [span for span in below if span.name == "image"]
    assert {request.span_id} == {span.parent_span_id for span in images}
    for image in images:
        stages = [span.name for span in below if span.parent_span_id == image.span_id]
        assert ["queue", "decode", "run"] == stages
    assert 2 == len(images)
    assert "hide-42" not in str(below) + str(request)


def test_failures_and_refusals(traced: tuple[Running, Receiver], red_png: bytes) -> None:
    """A failure of the service marks the span; what is refused has its code, and no probe is traced."""
    server, receiver = traced
    with server.client() as client:
        for path in PROBES:
            assert 404 != client.get(path).status_code
        refused = client.post("/classify", content=b"junk", headers=PNG).json()
        late = PNG | {"X-Request-Timeout-Ms": "1e-9"}
        failed = client.post("/classify", content=red_png, headers=late).json()
        client.get("/nothing/of/the/kind?q=secret")
    unsupported, timed_out, unknown = (receiver.spans.get(timeout=PATIENCE_S) for _ in range(3))
    assert [415, 504] == [refused["status"], failed["status"]]
    assert (Status.STATUS_CODE_UNSET, Status.STATUS_CODE_ERROR) == (unsupported.status.code, timed_out.status.code)
    assert "unsupported_image_type" == attributes(unsupported.attributes)["fieldmark.problem"]
    assert "deadline_exceeded" == attributes(timed_out.attributes)["error.type"]
    assert refused["trace_id"] == unsupported.trace_id.hex()
    assert ("GET", False) == (unknown.name, "kind" in str(unknown.attributes))
    assert "" == unknown.parent_span_id.hex()


def test_samplers_are_heeded(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, red_png: bytes
) -> None:
    """An unsampled request exports nothing and has no trace id; the caller's decision counts first."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"http://127.0.0.1:{receiver.port}/v1/traces")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    with running(tiny_settings(tmp_path)) as server, server.client() as client:
        client.post("/classify", content=red_png, headers=PNG).raise_for_status()
        assert "trace_id" not in client.post("/classify", content=b"junk", headers=PNG).json()
        client.post("/classify", content=red_png, headers=PNG | {"traceparent": TRACEPARENT}).raise_for_status()
    assert ["queue", "decode", "run", "POST /classify"] == [span.name for span in receiver.take("POST /classify")]
    assert receiver.spans.empty()


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4318/v1/metrics"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
    ],
)
def test_variables(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], wanted: bool) -> None:
    """The standard variables switch traces on and off; empty ones count as unset."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wanted == traces_wanted()


def served(tmp_path: Path, variables: dict[str, str], *ask: str) -> str:
    """Serve in a process of its own, send a request to each address, stop it, and return its log.

    Its log ends with the modules of OpenTelemetry that were imported.
    """
    settings = tiny_settings(tmp_path)
    script = (
        "import atexit, sys; from service.cli import main\n"
        "atexit.register(lambda: print('imported', *[m for m in sys.modules if m.startswith('opentelemetry')], "
        "file=sys.stderr))\n"
        f"sys.exit(main(['serve', '--model', {str(settings.model)!r}, '--port', '0', '--device', 'cpu']))"
    )
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | variables
    with subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        log = ""
        for line in process.stderr:
            log += line
            if found := re.search(r"ready on (http://\S+?),", line):
                for path in ask:
                    httpx.post(found[1] + path, content=b"junk", headers=PNG, timeout=PATIENCE_S)
                process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(PATIENCE_S), log
    return log


def test_off_imports_neither_sdk_nor_exporter(tmp_path: Path) -> None:
    """Without `OTEL_*` variables the serving process holds no part of OpenTelemetry beyond FastAPI's."""
    imported = served(tmp_path, {}, "/classify").splitlines()[-1].split()
    assert "imported" == imported[0]
    assert [] == [name for name in imported if re.match(r"opentelemetry\.(sdk|exporter|proto)", name)]


def test_stopping_exports_what_is_left(receiver: Receiver, tmp_path: Path) -> None:
    """Spans that are in the buffer when the service stops are exported before it ends."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.port}",
        "OTEL_BSP_SCHEDULE_DELAY": "3600000",
    }
    served(tmp_path, variables, "/classify")
    assert "POST /classify" == receiver.spans.get_nowait().name
    assert "fieldmark" == receiver.resources["service.name"]


def test_no_receiver(tmp_path: Path) -> None:
    """Where nothing receives the spans requests are answered, one line says so, and stopping does not wait long."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_BSP_SCHEDULE_DELAY": "1",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }
    log = served(tmp_path, variables, "/classify", "/classify", "/classify")
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert 3 == sum(event.get("status") == 415 for event in events)
    assert 1 == sum(event["event"].startswith("traces are dropped") for event in events)
    assert [] == [event for event in events if event["logger"].startswith("opentelemetry")]
    assert str(port) not in log


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "traces are off: OTEL_TRACES_EXPORTER can only be"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "traces are off: OTEL_EXPORTER_OTLP"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "traces are off: "),
    ],
)
def test_bad_variables_switch_off_the_traces_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variables: dict[str, str],
    reason: str,
) -> None:
    """A variable that cannot be heeded is reported, and the application is made."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    create_app(Runtime(tiny_settings(tmp_path)))
    assert reason in caplog.text


def test_the_extra_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the extra is not installed a line says so, and the application is made."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    for name in ("service.tracing", "service.http.tracing.middleware"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    create_app(Runtime(tiny_settings(tmp_path)))
    assert "the extra `otel` is not installed" in caplog.text


def test_ids_without_traces(client: httpx.Client) -> None:
    """The caller's trace id is in problem documents even where nothing is exported; one that is not valid is not."""
    for given, expected in (
        (TRACEPARENT, TRACE),
        (f"cc-{TRACE}-{CALLER}-01-later", TRACE),
        (f"ff-{TRACE}-{CALLER}-01", None),
        (f"00-{'0' * 32}-{CALLER}-01", None),
        (TRACEPARENT.upper(), None),
        ("<script>", None),
    ):
        answer = client.post("/classify", content=b"junk", headers=PNG | {"traceparent": given})
        assert expected == answer.json().get("trace_id")
        assert {"traceparent", "traceresponse"} & set(answer.headers) == set()


def test_ids_in_logs(traced: tuple[Running, Receiver], red_png: bytes) -> None:
    """The line of a request names its trace."""
    server, receiver = traced
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    with contextlib.ExitStack() as undo, server.client() as client:
        undo.callback(root.setLevel, level)
        undo.callback(lambda: root.handlers.__setitem__(slice(None), handlers))
        configure_logs(Settings(log_format="json"), stream)
        client.post("/classify", content=red_png, headers=PNG).raise_for_status()
        *_, request = receiver.take("POST /classify")
    (line,) = [line for line in map(json.loads, stream.getvalue().splitlines()) if line["event"] == "request"]
    assert request.trace_id.hex() == line["trace_id"]
    assert attributes(request.attributes)["fieldmark.request_id"] == line["request_id"]
