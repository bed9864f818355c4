"""Limits of time and size below the application, on bare connections."""

import inspect
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.http.protocol import INTERIM
from tests.service.running import Running, running, tiny_settings


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return a server with short timeouts."""
    settings = tiny_settings(
        tmp_path_factory.mktemp("models"), header_timeout_s=0.2, body_timeout_s=0.4, max_header_bytes=4096
    )
    with running(settings) as found:
        yield found


def read_all(connection: socket.socket) -> bytes:
    """Return everything until the server closes."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def problem(received: bytes) -> dict[str, Any]:
    """Return the problem document of a bare answer, after checking its head."""
    head, _, body = received.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert b"application/problem+json" == fields[b"content-type"]
    assert b"close" == fields[b"connection"]
    assert len(body) == int(fields[b"content-length"])
    document: dict[str, Any] = json.loads(body)
    assert document["request_id"] == fields[b"x-request-id"].decode()
    assert fields[b"server-timing"].startswith(b"total;dur=")
    assert str(document["status"]).encode() == head[9:12]
    return document


def read_one(connection: socket.socket) -> bytes:
    """Return one whole answer with a declared length."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    (length,) = (int(line[16:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: "))
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def test_silent_connection(server: Running) -> None:
    """A connection that sends nothing is closed without an answer."""
    with server.connect() as connection:
        assert b"" == read_all(connection)


def test_slow_header(server: Running) -> None:
    """A header that does not end is answered, and the connection closed."""
    with server.connect() as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\n")
        assert "slow_request" == problem(read_all(connection))["code"]


def test_slow_header_after_an_answer(server: Running) -> None:
    """The second request of a connection has no more time than the first, and stray line ends do not stop the clock."""
    with server.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in read_one(connection)
        connection.sendall(b"\r\n")
        connection.sendall(b"GET /livez HTTP/1.1\r\n")
        assert "slow_request" == problem(read_all(connection))["code"]


def test_stray_line_ends(server: Running) -> None:
    """Line ends alone keep no connection open."""
    with server.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in read_one(connection)
        connection.sendall(b"\r\n")
        assert "slow_request" == problem(read_all(connection))["code"]


@pytest.mark.parametrize("address", ["/classify", "/explain", "/v2/models/tiny/infer"])
def test_slow_body(server: Running, address: str) -> None:
    """A body that does not end is answered with 408, counted as such, and leaves nothing in flight."""
    metrics = server.runtime.metrics.registry
    before = metrics.get_sample_value("fieldmark_requests_refused_total", {"reason": "slow_request"}) or 0
    with server.connect() as connection:
        head = f"POST {address} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(head.encode() + b"\x89PNG")
        assert "slow_request" == problem(read_all(connection))["code"]
    server.until(lambda: server.in_flight() == 0)
    name, labels = "fieldmark_requests_refused_total", {"reason": "slow_request"}
    server.until(lambda: metrics.get_sample_value(name, labels) == before + 1)


def test_slow_body_after_the_answer(server: Running) -> None:
    """An early answer gives no more time for the rest of the body."""
    with server.connect() as connection:
        connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        received = read_all(connection)
    assert received.startswith(b"HTTP/1.1 404")
    assert 1 == received.count(b"HTTP/1.1")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /livez HTTP/1.1\r\nX-Long: " + b"x" * 5000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nX-Long: " + b"x" * 5000,
        b"GET /livez HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(1000)) + b"\r\n",
        b"GET /" + b"x" * 5000,
    ],
    ids=["whole", "unfinished", "many", "address"],
)
def test_large_header(server: Running, head: bytes) -> None:
    """A header beyond the limit is refused, in one piece or before its end."""
    with server.connect() as connection:
        connection.sendall(head)
        document = problem(read_all(connection))
    assert ("malformed_request", "The header of the request is too large.") == (document["code"], document["detail"])


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost : x\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_garbage(server: Running, garbage: bytes) -> None:
    """Bytes that are not HTTP are refused with a problem."""
    with server.connect() as connection:
        connection.sendall(garbage)
        assert "malformed_request" == problem(read_all(connection))["code"]
    server.until(lambda: server.in_flight() == 0)


def test_early_answer_arrives(tiny_server: Running) -> None:
    """The answer to a body that is not read reaches a client that keeps sending."""
    with tiny_server.connect() as connection:
        size = 40 * 1024 * 1024
        connection.sendall(f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
        connection.sendall(b"x" * 500_000)
        assert "too_large" == problem(read_all(connection))["code"]


def test_endless_body_is_cut(tiny_server: Running) -> None:
    """A client that keeps sending after its answer is cut off."""
    with tiny_server.connect() as connection:
        size = 40 * 1024 * 1024
        connection.sendall(f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            connection.sendall(b"x" * size)


def test_chunks_are_counted(tiny_server: Running) -> None:
    """A body without a declared length is refused once it is too long."""
    with tiny_server.connect() as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        for _ in range(20):
            connection.sendall(chunk)
        connection.sendall(b"1\r\nx\r\n")
        assert "too_large" == problem(read_all(connection))["code"]
    tiny_server.until(lambda: tiny_server.in_flight() == 0)


def test_pipelined_requests(tiny_server: Running) -> None:
    """Requests sent in one piece are answered in order."""
    with tiny_server.connect() as connection:
        one = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
        connection.sendall(one + one + b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert 3 == read_all(connection).count(b"HTTP/1.1 200 OK")


def test_header_and_body_leave_together(tiny_server: Running) -> None:
    """An answer is one packet; one without a body does not wait for it."""
    with tiny_server.connect() as connection:
        for method in ("GET", "HEAD", "GET"):
            connection.sendall(f"{method} /livez HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            header, end, body = connection.recv(65536).partition(b"\r\n\r\n")
            length = int(re.findall(rb"content-length: (\d+)", header)[0])
            assert (b"\r\n\r\n", 0 if method == "HEAD" else length) == (end, len(body))


UPGRADE = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"


@pytest.mark.parametrize("cut", [0, 1, 60])
@pytest.mark.parametrize("chunked", [False, True])
def test_offer_of_another_protocol(server: Running, red_png: bytes, cut: int, chunked: bool) -> None:
    """Java's client offers HTTP/2 with every request; its photo is answered all the same, and the connection stays."""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(red_png)}"
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(red_png), red_png) if chunked else red_png
    head = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n{UPGRADE}{framing}\r\n\r\n".encode()
    with server.connect() as connection:
        for _ in range(2):
            connection.sendall(head + body[:cut])
            connection.sendall(body[cut:])
            assert b"200 OK" in read_one(connection)
        connection.sendall(f"GET /livez HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n".encode())
        assert b"200 OK" in read_one(connection)
        connection.sendall((head + body) * 2 + b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert 3 == read_all(connection).count(b"HTTP/1.1 200 OK")


def test_header_counts_once(tmp_path: Path) -> None:
    """A header within its limit is accepted in any number of pieces; the address counts too; there is one refusal."""
    with running(tiny_settings(tmp_path, max_header_bytes=4096, root_path="/birds")) as server:
        with server.connect() as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
            for index in range(36):
                connection.sendall(b"X-%d: %s\r\n" % (index, b"a" * 90))
            connection.sendall(b"\r\n")
            assert b"200 OK" in read_all(connection)
        for request in (b"GET /%s HTTP/1.1\r\n\r\n" % (b"a" * 5000), b"GET / HTTP/1.1\r\nX: %s" % (b"a" * 50_000)):
            with server.connect() as connection:
                connection.sendall(request)
                refused = problem(read_all(connection))
                assert ("malformed_request", "/birds/errors#malformed_request") == (refused["code"], refused["type"])


def classify(photo: bytes, fields: str = "", length: int | None = None, version: str = "1.1") -> bytes:
    """Return a whole request, its Content-Length maybe wrong."""
    size = len(photo) if length is None else length
    head = f"POST /classify HTTP/{version}\r\nHost: x\r\nContent-Type: image/png\r\n{fields}Content-Length: {size}"
    return head.encode() + b"\r\n\r\n" + photo


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("count", [1, 3])
def test_half_closed(server: Running, red_png: bytes, version: str, count: int) -> None:
    """A client that closes its half after whole requests gets all answers, then the end."""
    count = 1 if version == "1.0" else count
    with server.connect() as connection:
        connection.sendall(classify(red_png, version=version) * count)
        connection.shutdown(socket.SHUT_WR)
        received = read_all(connection)
    if version == "1.1":
        received = received.replace(INTERIM, b"")  # a client that waits for long is probed
    assert count == received.count(b"HTTP/1.1 200 OK") == received.count(b"HTTP/1.1 ")
    server.until(lambda: server.in_flight() == 0)


def test_half_closed_while_it_is_worked_on(
    server: Running, red_png: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that waits for longer than the probe's delay gets one interim answer, and all its answers."""
    monkeypatch.setattr("service.http.protocol.PROBE_S", 0.0)
    with server.connect() as connection:
        for _ in range(20):
            connection.sendall(classify(red_png))
        connection.shutdown(socket.SHUT_WR)
        received = read_all(connection)
    assert 1 == received.count(INTERIM)
    received = received.replace(INTERIM, b"")
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert 20 == received.count(b"HTTP/1.1 200 OK")
    assert all(body.endswith(b"}") for body in received.split(b"HTTP/1.1 200 OK\r\n")[1:])
    assert not [record for record in caplog.records if record.exc_info]


def test_half_closed_in_the_middle(server: Running, red_png: bytes) -> None:
    """Half a request gets no answer; those before it do."""
    with server.connect() as connection:
        connection.sendall(classify(red_png)[:-10])
        connection.shutdown(socket.SHUT_WR)
        assert b"" == read_all(connection)
    with server.connect() as connection:
        connection.sendall(classify(red_png) + classify(red_png)[:-10])
        connection.shutdown(socket.SHUT_WR)
        received = read_all(connection).replace(INTERIM, b"")
    assert 1 == received.count(b"HTTP/1.1 200 OK") == received.count(b"HTTP/1.1 ")
    server.until(lambda: server.in_flight() == 0)


@pytest.mark.parametrize("half_closed", [False, True])
@pytest.mark.parametrize("fields", ["", "Connection: close\r\n"])
@pytest.mark.parametrize(
    "stray",
    [
        b"\0\1\2 no request",
        b"x" * 10_000,
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /",
    ],
    ids=["bytes", "long", "no host", "bad chunk", "unfinished"],
)
def test_stray_bytes(
    server: Running, red_png: bytes, stray: bytes, fields: str, half_closed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Stray bytes after a whole request are refused as the next request; that request is answered."""
    with server.connect() as connection:
        connection.sendall(classify(red_png, fields) + stray)
        if half_closed:
            connection.shutdown(socket.SHUT_WR)
        received = read_all(connection).replace(INTERIM, b"")
    first, *rest = re.split(rb"HTTP/1\.1 (?=\d)", received)[1:]
    assert first.startswith(b"200 OK")
    assert all(answer.startswith((b"400", b"408")) for answer in rest)
    assert (0 if fields or (half_closed and stray == b"GET /") else 1) == len(rest)
    server.until(lambda: server.in_flight() == 0)
    assert not [record for record in caplog.records if record.exc_info]


def test_length_too_small(server: Running, red_png: bytes) -> None:
    """The photo ends at its declared length, and the rest is refused as a request."""
    with server.connect() as connection:
        connection.sendall(classify(red_png, length=len(red_png) - 20))
        first, second = read_all(connection).split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"422")
    assert "malformed_request" == problem(b"HTTP/1.1 " + second)["code"]


def test_continue_is_not_for_old_clients(server: Running, red_png: bytes) -> None:
    """HTTP/1.0 has no interim answers."""
    expect = "Expect: 100-continue\r\n"
    with server.connect() as connection:
        connection.sendall(classify(red_png, expect, version="1.0"))
        assert read_all(connection).startswith(b"HTTP/1.1 200 OK")
    with server.connect() as connection:
        connection.sendall(classify(red_png, expect + "Connection: close\r\n"))
        assert read_all(connection).startswith(b"HTTP/1.1 100 Continue")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /livez HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
        (b"GET /livez HTTP/1.1\r\nHost: \r\nConnection: close\r\n\r\n", b"200"),
        (b"GET /livez HTTP/1.0\r\n\r\n", b"200"),
        (b"POST /classify HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"400"),
    ],
)
def test_host(server: Running, head: bytes, status: bytes) -> None:
    """HTTP/1.1 names the host, once; 1.0 need not."""
    with server.connect() as connection:
        connection.sendall(head)
        received = read_all(connection)
    assert status == received[9:12]
    if status == b"400":
        assert "A request of HTTP/1.1 needs one `Host`." == problem(received)["detail"]


OVERRIDDEN = {
    HttpToolsProtocol: (
        "connection_made connection_lost data_received eof_received on_response_complete timeout_keep_alive_handler "
        "on_message_begin on_url on_header on_headers_complete on_message_complete on_body send_400_response "
        "_unsupported_upgrade_warning"
    ),
    uvicorn.Server: "handle_exit on_tick shutdown capture_signals",
}
ATTRIBUTES = {
    HttpToolsProtocol: "transport flow parser pipeline headers cycle loop scheme server_state timeout_keep_alive_task",
    RequestResponseCycle: "scope transport disconnected message_event response_started response_complete keep_alive",
    ServerState: "total_requests connections tasks default_headers",
    uvicorn.Server: "servers server_state should_exit force_exit",
}


def test_uvicorn_still_has_what_is_overridden() -> None:
    """Overrides of names that uvicorn no longer has would be ignored: then `pyproject.toml`'s range must not rise."""
    gone = {f"{kind.__name__}.{name}" for kind, names in OVERRIDDEN.items() for name in names.split()} - {
        f"{kind.__name__}.{name}" for kind in OVERRIDDEN for name in vars(kind)
    }
    for kind, names in ATTRIBUTES.items():
        source = inspect.getsource(kind)
        gone |= {f"{kind.__name__}.{name}" for name in names.split() if not re.search(rf"self\.{name}\b", source)}
    assert set() == gone, f"uvicorn {uvicorn.__version__} has no {', '.join(sorted(gone))}: adapt service.http to it"
