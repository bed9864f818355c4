"""A span for every request but probes; in front of all other layers, and there only where traces are on."""

from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.addresses import UNMATCHED
from service.http.context import RequestContext, context_of
from service.http.telemetry import CLIENT_GONE
from service.tracing import Tracing

PROBES = frozenset({"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
"""Addresses that machines ask every few seconds: their spans would be most of all."""
MAX_PATH = 256
"""Most characters of a path that are exported."""

_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})


class TracingMiddleware:
    """Pure ASGI middleware: opens a span, and closes it with what the layers inside have found out.

    Nothing that a client chose freely is exported but the path of a known address and its request id: no query, no
    file name, no key.

    Args:
        app: what it wraps.
        tracing: of the service.
    """

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        context = context_of(scope)
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        known = {"http.request.method": method, "url.scheme": scope["scheme"]}
        name = "HTTP" if method == "_OTHER" else method
        span = self._tracing.begin(name, headers, known)
        context.trace_id = span.trace_id or context.trace_id
        try:
            await self._app(scope, receive, send)
        finally:
            if span.trace_id is not None:
                route = context.address.template
                named = name if route == UNMATCHED else f"{name} {route}"
                span.end(named, _attributes(scope, context), context.intervals, _failure(context))


def _attributes(scope: Scope, context: RequestContext) -> dict[str, str | int]:
    """Return what is known of a request once it is answered."""
    found: dict[str, str | int] = {
        "fieldmark.request_id": context.request_id,
        "http.request.body.size": context.bytes_in,
        "http.response.body.size": context.bytes_out,
    }
    if context.status and context.status != CLIENT_GONE:
        found["http.response.status_code"] = context.status
    if context.address.template != UNMATCHED:
        found |= {"http.route": context.address.template, "url.path": scope["path"][:MAX_PATH]}
    if context.problem is not None:
        found["fieldmark.problem"] = context.problem
    if "model" in context.fields:
        name, _, version = context.fields["model"].rpartition("/")
        found |= {"fieldmark.model.name": name, "fieldmark.model.version": version}
    return found


def _failure(context: RequestContext) -> str | None:
    """Return what failed in the service; a refused request has not failed."""
    if context.status in (0, CLIENT_GONE):
        return "client_disconnected"
    return (context.problem or str(context.status)) if context.status >= 500 else None
