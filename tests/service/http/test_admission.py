"""Limits at admission, over real connections to a real server whose model runs when the test lets it."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service.http.admission import DRAIN_BYTES
from service.inference.engine import Images, OnnxEngine, Outputs, Question
from service.inference.load import LoadTracker
from service.inference.runtime import Runtime
from tests.service.conftest import encoded
from tests.service.running import Running, running, tiny_settings

PHOTO = encoded("red")


class GatedEngine(OnnxEngine):
    """The tiny model, which runs only while its gate is open."""

    gate = threading.Event()

    def run(self, images: Images, question: Question, *, alone: bool = False) -> Outputs:
        assert self.gate.wait(60), "the test never opened the gate"
        return super().run(images, question)


@dataclass(frozen=True)
class Reply:
    """An answer off the wire."""

    status: int
    headers: dict[str, str]
    body: Any


class Caller:
    """A bare connection, for requests that no client library would send."""

    def __init__(self, server: Running) -> None:
        self.socket = server.connect()
        self._buffer = b""

    def send(self, *fields: str, body: bytes = PHOTO, length: int | None = None, target: str = "/classify") -> None:
        """Send a header that declares `length` bytes, and these bytes."""
        declared = len(body) if length is None else length
        head = [f"POST {target} HTTP/1.1", "Host: x", "Content-Type: image/png", *fields]
        if not any(line.lower().startswith("transfer-encoding") for line in fields):
            head.append(f"Content-Length: {declared}")
        self.socket.sendall("\r\n".join([*head, "", ""]).encode() + body)

    def read(self) -> Reply:
        """Return the next answer."""
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = int(headers.get("content-length", 0))
        while len(self._buffer) < length:
            self._receive()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Reply(int(lines[0].split()[1]), headers, json.loads(body) if body else None)

    def is_closed_by_server(self) -> bool:
        """Return whether the server ends the connection."""
        return self.socket.recv(1) == b""

    def _receive(self) -> None:
        data = self.socket.recv(65536)
        assert data, f"the connection ended after {self._buffer!r}"
        self._buffer += data


@dataclass
class Guarded:
    """A server behind a closed gate."""

    server: Running
    gate: threading.Event
    callers: contextlib.ExitStack

    @property
    def in_hand(self) -> LoadTracker:
        """What the server counts."""
        return self.server.runtime.load

    def call(self, *fields: str, **options: Any) -> Caller:
        """Send a request over a connection of its own."""
        caller = Caller(self.server)
        self.callers.callback(caller.socket.close)
        caller.send(*fields, **options)
        return caller

    def occupy(self, count: int) -> list[Caller]:
        """Send requests that stay in flight until the gate opens."""
        callers = [self.call() for _ in range(count)]
        until(lambda: self.in_hand.requests >= count)
        return callers

    def refused(self) -> str:
        """Return the metric of refusals."""
        page = self.server.runtime.metrics.exposition(None)[0].decode()
        return "\n".join(line for line in page.splitlines() if line.startswith("fieldmark_requests_refused_total{"))


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, half a minute at most."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.002)


@contextmanager
def guarded(folder: Path, **options: Any) -> Iterator[Guarded]:
    """Serve the tiny model with one run at a time and the gate closed."""
    settings = tiny_settings(folder, cpu_runs=1, poll_interval_s=3600, **options)
    gate = threading.Event()
    gate.set()
    engine = type("Gated", (GatedEngine,), {"gate": gate})
    try:
        with running(settings, Runtime(settings, load=engine)) as server, contextlib.ExitStack() as callers:
            callers.callback(gate.set)
            gate.clear()
            yield Guarded(server, gate, callers)
    finally:
        gate.set()


def test_requests_are_bounded(tmp_path: Path) -> None:
    """Beyond the limit the answer is 429 with `Retry-After`, before the body was sent."""
    with guarded(tmp_path, max_requests=2) as guard:
        accepted = guard.occupy(2)
        reply = guard.call(body=b"", length=5_000_000).read()
        assert (429, "overloaded", "close") == (reply.status, reply.body["code"], reply.headers["connection"])
        assert int(reply.headers["retry-after"]) >= 1
        assert 'reason="overloaded"} 1.0' in guard.refused()
        guard.gate.set()
        assert [200, 200] == [caller.read().status for caller in accepted]
        until(lambda: (guard.in_hand.requests, guard.in_hand.bytes) == (0, 0))


def test_small_refused_body_keeps_the_connection(tmp_path: Path) -> None:
    """A short body is read to its end, so that the same connection can send another request."""
    with guarded(tmp_path, max_requests=1) as guard:
        accepted = guard.occupy(1)
        caller = guard.call()
        assert caller.read().status == 429
        guard.gate.set()
        assert accepted[0].read().status == 200
        until(lambda: guard.in_hand.requests == 0)
        caller.send()
        assert caller.read().status == 200


def test_large_refused_body_is_drained_to_a_bound(tmp_path: Path) -> None:
    """A client that keeps sending a large refused body gets its answer, and then the end of the connection."""
    with guarded(tmp_path, max_requests=1) as guard:
        guard.occupy(1)
        caller = guard.call(body=b"x" * (DRAIN_BYTES // 2), length=3 * DRAIN_BYTES)
        reply = caller.read()
        assert (429, "close") == (reply.status, reply.headers["connection"])
        sent = 0
        with pytest.raises(OSError):  # noqa: PT012 - the loop ends when the server has had enough
            while sent < 64 * DRAIN_BYTES:
                caller.socket.sendall(b"x" * 65536)
                sent += 65536


def test_expect_continue(tmp_path: Path) -> None:
    """A client that waits for 100 gets it, or is refused without sending its body."""
    with guarded(tmp_path, max_requests=1) as guard:
        caller = guard.call("Expect: 100-continue", body=b"", length=len(PHOTO))
        assert caller.read().status == 100
        refused = guard.call("Expect: 100-continue", body=b"", length=len(PHOTO))
        reply = refused.read()
        assert (429, "close") == (reply.status, reply.headers["connection"])
        assert refused.is_closed_by_server()
        guard.gate.set()
        caller.socket.sendall(PHOTO)
        assert caller.read().status == 200


def test_bytes_are_bounded_from_the_header_on(tmp_path: Path) -> None:
    """Declared bytes count before they arrive; a lone request passes whatever its size."""
    with guarded(tmp_path, max_bytes_in_flight=4096) as guard:
        first = guard.call(body=b"", length=len(PHOTO) + 8000)
        until(lambda: guard.in_hand.bytes > 4096)
        reply = guard.call().read()
        assert (429, "overloaded") == (reply.status, reply.body["code"])
        first.socket.close()
        until(lambda: guard.in_hand.bytes == 0)
        guard.gate.set()
        assert guard.call().read().status == 200


def test_undeclared_bytes_are_counted_as_they_arrive(tmp_path: Path) -> None:
    """A chunked body is bounded like any other: 413 beyond what a request may have, 429 beyond what all may."""
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    with guarded(tmp_path, max_upload_bytes=20_000, max_bytes_in_flight=18_000) as guard:
        alone = guard.call("Transfer-Encoding: chunked", body=chunk * 2)
        assert (413, "too_large") == ((reply := alone.read()).status, reply.body["code"])
        guard.occupy(1)
        beside = guard.call("Transfer-Encoding: chunked", body=chunk)
        until(lambda: guard.in_hand.requests == 2)
        beside.socket.sendall(b"800\r\n" + b"x" * 0x800 + b"\r\n")
        assert (429, "overloaded") == ((reply := beside.read()).status, reply.body["code"])


def test_declared_length_beyond_the_limit(tmp_path: Path) -> None:
    """A body that is too large by its header is refused unread."""
    with guarded(tmp_path, max_upload_bytes=2048) as guard:
        reply = guard.call(body=b"", length=10_000_000).read()
        assert (413, "too_large", "close") == (reply.status, reply.body["code"], reply.headers["connection"])


def test_deadline_that_cannot_be_met(tmp_path: Path) -> None:
    """A request that would be late by the measured pace is refused; one with more time is admitted."""
    with guarded(tmp_path) as guard:
        in_hand = guard.in_hand
        in_hand._used_s, in_hand._finished = 1.8, 4.0  # 0.45 s each
        guard.occupy(3)
        late = guard.call("X-Request-Timeout-Ms: 1500").read()
        assert (429, "overloaded", "2") == (late.status, late.body["code"], late.headers["retry-after"])
        patient = guard.call("X-Request-Timeout-Ms: 9000")
        until(lambda: in_hand.requests == 4)
        guard.gate.set()
        assert patient.read().status == 200


def test_deadline_passes_in_the_queue(tmp_path: Path) -> None:
    """Work whose deadline passes in the queue is answered 504 and costs no run."""
    with guarded(tmp_path) as guard:
        first = guard.occupy(1)[0]
        late, too_late = guard.call("X-Request-Timeout-Ms: 1"), time.monotonic() + 0.01
        runtime = guard.server.runtime
        refused = ("fieldmark_requests_refused_total", {"reason": "deadline_exceeded"})
        # On a slow machine it is too late already when it enters the queue, and is answered at once.
        until(lambda: runtime.workers.waiting == 1 or runtime.metrics.registry.get_sample_value(*refused) == 1)
        until(lambda: time.monotonic() > too_late)
        guard.gate.set()
        assert (504, "deadline_exceeded") == ((reply := late.read()).status, reply.body["code"])
        assert first.read().status == 200
        assert guard.server.runs() == 1


@pytest.mark.parametrize("value", ["soon", "0", "-5", "nan", "inf"])
def test_deadline_must_be_a_number(tmp_path: Path, value: str) -> None:
    """A deadline that is no positive number is refused."""
    with guarded(tmp_path) as guard:
        reply = guard.call(f"X-Request-Timeout-Ms: {value}").read()
        assert (422, "invalid_option") == (reply.status, reply.body["code"])


def test_client_that_hung_up_is_dropped(tmp_path: Path) -> None:
    """Work whose client is gone leaves the queue and never runs."""
    with guarded(tmp_path) as guard:
        first = guard.occupy(1)[0]
        gone = guard.call()
        until(lambda: guard.server.runtime.workers.waiting == 1)
        gone.socket.close()
        until(lambda: guard.server.runtime.workers.waiting == 0)
        until(lambda: guard.in_hand.requests == 1)
        guard.gate.set()
        assert first.read().status == 200


def test_draining_answers_503_and_finishes_what_was_accepted(tmp_path: Path) -> None:
    """While stopping, new requests get 503 and accepted ones are answered."""
    with guarded(tmp_path) as guard:
        accepted = guard.occupy(1)[0]
        guard.server.runtime.draining = True
        reply = guard.call().read()
        assert (503, "draining", "close") == (reply.status, reply.body["code"], reply.headers["connection"])
        guard.gate.set()
        assert accepted.read().status == 200


def test_other_addresses_are_not_guarded(tmp_path: Path) -> None:
    """Probes and metrics answer under any load."""
    with guarded(tmp_path, max_requests=1) as guard:
        guard.occupy(1)
        with guard.server.client() as client:
            assert [200, 200] == [client.get(path).status_code for path in ("/livez", "/readyz")]


def test_connections_are_plain_sockets(tmp_path: Path) -> None:
    """A connection that sends nothing does not count."""
    with guarded(tmp_path, max_requests=1) as guard:
        silent = [socket.create_connection(("127.0.0.1", guard.server.port)) for _ in range(5)]
        guard.gate.set()
        assert guard.call().read().status == 200
        for connection in silent:
            connection.close()
