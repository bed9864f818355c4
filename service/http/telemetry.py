"""The outermost layer: an id, timings, a log line and a count for every request, and an answer to every exception.

Pure ASGI: Starlette's `BaseHTTPMiddleware` hides from the application that a client hung up, and costs more.
"""

import logging
import time
from collections.abc import Awaitable
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.feedback import Feedback
from service.http.addresses import Addresses
from service.http.context import RequestContext, context_of
from service.http.problems import problem_response
from service.inference.runtime import Runtime
from service.metrics import REFUSALS

CLIENT_GONE = 499
"""Status in logs and metrics, never sent, of a request whose client left before the answer."""

_ACCESS = logging.getLogger("fieldmark.access")


def route_path(scope: Scope) -> str:
    """Return the path below the root path, whether the proxy in front strips the prefix or not."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        return path[len(root) :] or "/"
    return path


class TelemetryMiddleware:
    """Pure ASGI middleware: every request is counted and logged, every exception answered.

    Args:
        app: what it wraps.
        runtime: of the service.
        addresses: of the service.
        feedback: of the service, where it collects any.
    """

    def __init__(self, app: ASGIApp, runtime: Runtime, addresses: Addresses, feedback: Feedback | None = None) -> None:
        self._app = app
        self._runtime = runtime
        self._addresses = addresses
        self._feedback = feedback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = self._begin(scope)
        metrics = self._runtime.metrics

        def send_recorded(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                if context.problem in REFUSALS and scope["method"] == "POST":  # a probe's 503 refuses no work
                    metrics.refused(context.problem)
                message["headers"] = [*message.get("headers", ()), *_common_headers(scope, context)]
            elif message["type"] == "http.response.body":
                context.bytes_out += len(message.get("body", b""))
            return send(message)

        try:
            await self._app(scope, receive, send_recorded)
        except ClientDisconnect:
            context.status = CLIENT_GONE
            if context.timed_out:  # the protocol has answered
                context.status = 408
                metrics.refused("slow_request")
        except Exception as error:
            response = problem_response(error, scope)
            if context.status:  # too late for a problem: the server cuts the connection
                raise
            await response(scope, receive, send_recorded)
        finally:
            self._record(scope, context)

    def _begin(self, scope: Scope) -> RequestContext:
        context = context_of(scope)
        context.runtime = self._runtime
        context.feedback = self._feedback
        context.root_path = self._runtime.settings.root_path
        if context.root_path:
            scope["root_path"] = context.root_path
        context.address = self._addresses[route_path(scope)]
        return context

    def _record(self, scope: Scope, context: RequestContext) -> None:
        seconds = time.perf_counter() - context.started
        status = context.status or CLIENT_GONE
        self._runtime.metrics.request(context.address.template, scope["method"], status, seconds)
        if _ACCESS.isEnabledFor(logging.INFO):
            _ACCESS.info("request", extra={"fields": _log_fields(scope, context, status, seconds)})


class ProblemMiddleware:
    """Pure ASGI middleware: exceptions become answers here, for layers between here and `TelemetryMiddleware`.

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
            if scope["type"] != "http" or context_of(scope).status:
                raise
            await problem_response(error, scope)(scope, receive, send)


def _log_fields(scope: Scope, context: RequestContext, status: int, seconds: float) -> dict[str, Any]:
    fields: dict[str, Any] = {
        **context.ids(),
        "method": scope["method"],
        "route": context.address.template,
        "status": status,
        "duration_ms": round(seconds * 1e3, 2),
        "bytes_in": context.bytes_in,
        "bytes_out": context.bytes_out,
    }
    for name, value in context.timings.items():
        fields[f"{name}_ms"] = round(value * 1e3, 2)
    fields.update(context.fields)
    if context.problem is not None:
        fields["problem"] = context.problem
    return fields


def _common_headers(scope: Scope, context: RequestContext) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"x-request-id", context.request_id.encode("ascii")),
        (b"server-timing", context.server_timing()),
        (b"x-content-type-options", b"nosniff"),
    ]
    # An answer to a photo is private to its sender; a problem does not apply to the next request.
    if scope["method"] == "POST" or context.status >= 400:
        headers.append((b"cache-control", b"no-store"))
    return headers
