"""The outermost layer: an id, timings, a log line and a count for every request, and an answer to every exception.

Pure ASGI: Starlette's `BaseHTTPMiddleware` hides a client that hung up from the application, and costs more.
"""

import logging
import random
import re
import time
from collections.abc import Awaitable
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import problem_response
from service.metrics import REFUSALS, Metrics

CLIENT_GONE = 499
"""Status in logs and metrics, never on the wire, of a request whose client left before the answer."""

_ACCESS = logging.getLogger("fieldmark.access")
_ADDRESSES = frozenset({"/classify", "/explain", "/models", "/metrics", "/admin/reload"})
_INFER = "/v2/models/{model}/infer"
_INFER_VERSION = "/v2/models/{model}/versions/{version}/infer"
# An id, not a secret; the system's generator would give up the interpreter lock and wait for it under load.
_RANDOM = random.Random()  # noqa: S311
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


class Exchange:
    """What is known of one request while it is answered; the routes fill it, the log line tells it.

    Attributes:
        request_id: the client's `X-Request-Id` where it is sane, else a random one.
        started: monotonic clock, seconds.
        status: of the answer; 0 before its start.
        bytes_in: of the body, as read.
        bytes_out: of the answer's body.
        stages_s: seconds by stage; for several images the longest of each stage, as they run side by side.
        fields: further members of the log line: model, version, label, images.
        problem: code of the problem answered, if any.
        route: template for metrics and log, where the router does not tell.
    """

    __slots__ = ("bytes_in", "bytes_out", "fields", "problem", "request_id", "route", "stages_s", "started", "status")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.started = time.perf_counter()
        self.status = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.stages_s: dict[str, float] = {}
        self.fields: dict[str, Any] = {}
        self.problem: str | None = None
        self.route: str | None = None

    def stage(self, name: str, seconds: float) -> None:
        """Note the time of a stage of one image."""
        self.stages_s[name] = max(self.stages_s.get(name, 0.0), seconds)

    def server_timing(self) -> bytes:
        """Return the value of the `Server-Timing` header, milliseconds."""
        total = time.perf_counter() - self.started
        parts = [f"{name};dur={seconds * 1e3:.2f}" for name, seconds in self.stages_s.items()]
        return ", ".join((*parts, f"total;dur={total * 1e3:.2f}")).encode("ascii")


def exchange_of(scope: Scope) -> Exchange:
    """Return the exchange of a request."""
    exchange: Exchange = scope["state"]["exchange"]
    return exchange


def route_path(scope: Scope) -> str:
    """Return the path below the root path, whether the proxy in front strips the prefix or not."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        return path[len(root) :] or "/"
    return path


def route_label(scope: Scope) -> str:
    """Return the template of a request's route, also of one refused before it was routed; `unmatched` for none."""
    template = getattr(scope.get("route"), "path", None)
    if template is not None:
        return str(template)
    path = route_path(scope)
    if path in _ADDRESSES:
        return path
    if path.startswith("/v2/") and path.endswith("/infer"):
        return _INFER_VERSION if "/versions/" in path else _INFER
    return "unmatched"


class Telemetry:
    """Pure ASGI middleware: nothing above it fails, nothing below it goes uncounted.

    Args:
        app: what it wraps.
        metrics: where requests are counted.
        root_path: prefix that a proxy in front serves this application under.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, root_path: str = "") -> None:
        self._app = app
        self._metrics = metrics
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._root_path:
            scope["root_path"] = self._root_path
        exchange = Exchange(_request_id(scope))
        scope.setdefault("state", {})["exchange"] = exchange

        def send_told(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                if exchange.problem in REFUSALS and scope["method"] == "POST":  # a probe's 503 refuses nobody
                    self._metrics.refused(exchange.problem)
                message["headers"] = [*message.get("headers", ()), *_common_headers(scope, exchange)]
            elif message["type"] == "http.response.body":
                exchange.bytes_out += len(message.get("body", b""))
            return send(message)

        try:
            await self._app(scope, receive, send_told)
        except ClientDisconnect:
            exchange.status = CLIENT_GONE
            if scope["state"].get("timed_out"):  # the protocol has answered
                exchange.status = 408
                self._metrics.refused("slow_request")
        except Exception as error:
            response = problem_response(error, scope)
            if exchange.status:  # too late for an answer: let the server cut the connection
                raise
            await response(scope, receive, send_told)
        finally:
            self._tell(scope, exchange)

    def _tell(self, scope: Scope, exchange: Exchange) -> None:
        seconds = time.perf_counter() - exchange.started
        route = exchange.route or route_label(scope)
        status = exchange.status or CLIENT_GONE
        self._metrics.request(route, scope["method"], status, seconds)
        if _ACCESS.isEnabledFor(logging.INFO):
            _ACCESS.info("request", extra={"fields": _log_fields(scope, exchange, route, status, seconds)})


class Problems:
    """Pure ASGI middleware: exceptions from below become answers here, for the layers between here and `Telemetry`.

    Args:
        app: what it wraps.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            raise
        except Exception as error:
            if scope["type"] != "http" or exchange_of(scope).status:
                raise
            await problem_response(error, scope)(scope, receive, send)


def _log_fields(scope: Scope, exchange: Exchange, route: str, status: int, seconds: float) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "request_id": exchange.request_id,
        "method": scope["method"],
        "route": route,
        "status": status,
        "duration_ms": round(seconds * 1e3, 2),
        "bytes_in": exchange.bytes_in,
        "bytes_out": exchange.bytes_out,
    }
    for name, value in exchange.stages_s.items():
        fields[f"{name}_ms"] = round(value * 1e3, 2)
    fields.update(exchange.fields)
    if exchange.problem is not None:
        fields["problem"] = exchange.problem
    return fields


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            sane: str = value.decode("ascii")
            return sane
    return f"{_RANDOM.getrandbits(128):032x}"


def _common_headers(scope: Scope, exchange: Exchange) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"x-request-id", exchange.request_id.encode("ascii")),
        (b"server-timing", exchange.server_timing()),
        (b"x-content-type-options", b"nosniff"),
    ]
    # An answer to a photo is its sender's; a problem says nothing about the next request.
    if scope["method"] == "POST" or exchange.status >= 400:
        headers.append((b"cache-control", b"no-store"))
    return headers
