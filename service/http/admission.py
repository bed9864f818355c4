"""Keys, and limits on the work on images: requests, bytes and time. All are checked before a body is read.

A queue without a limit answers every request too late. Here a request counts from its header on. When too many requests
or bytes are in flight, or when the measured pace says that its deadline cannot be met, it is refused at once with
`Retry-After` and its body stays unread: a client that sent `Expect: 100-continue` never sends it.

The work for a client that hangs up is cancelled. Starlette's `is_disconnected` would have to be polled, and never
reports anything behind `BaseHTTPMiddleware`.
"""

import asyncio
import math
import time
from collections.abc import Awaitable

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model.photo.limits import shown_size
from service.errors import Draining, InvalidOption, MalformedRequest, Overloaded, TooLarge
from service.http.auth import ApiKeys
from service.http.context import RequestContext, context_of
from service.inference.runtime import Runtime

DRAIN_BYTES = 1024 * 1024
"""Longest unread body that is worth reading to keep the connection; beyond, it is closed."""
HEADROOM = 1.1
"""Factor on the expected time: the pace varies, and the client's clock starts before the header arrives and ends after
the answer has left."""
_CLOSE = {"Connection": "close"}


class AdmissionMiddleware:
    """Pure ASGI middleware: checks the key of every request, and limits the work on images.

    Args:
        app: what it guards.
        runtime: of the service: its limits, its load, and whether it is stopping.
        keys: of the service.
    """

    def __init__(self, app: ASGIApp, runtime: Runtime, keys: ApiKeys) -> None:
        self._app = app
        self._runtime = runtime
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit one request, or raise why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = context_of(scope)
        key = context.address.key
        if key is not None and key in self._keys.needed:
            self._keys.check(key, scope["headers"])
        if scope["method"] != "POST" or not context.address.admitted:
            await self._app(scope, receive, send)
            return
        request = _AdmittedRequest(self._runtime, self._check(context, Headers(scope=scope)), receive, send)
        context.on_disconnect.add(request.cancel)
        answered = False
        try:
            await self._app(scope, request.receive, request.send)
            answered = True
        except asyncio.CancelledError:
            if not request.is_cancelled:
                raise
            request.task.uncancel()
            raise ClientDisconnect from None
        finally:
            context.on_disconnect.discard(request.cancel)
            request.close(answered=answered)

    def _check(self, context: RequestContext, headers: Headers) -> int:
        """Set the deadline of a request, and return the bytes that it declares.

        Raises:
            FieldmarkError: it cannot be admitted, by its header alone.
        """
        settings, load = self._runtime.settings, self._runtime.load
        arrived = time.monotonic()
        length = headers.get("content-length")
        if length is not None and not length.isdecimal():
            raise MalformedRequest("The Content-Length is not a number.", headers=_CLOSE)
        num_bytes = int(length or 0)
        # A body that may never arrive, or that is not worth reading, must not block the next request.
        close = _CLOSE if "expect" in headers or length is None or num_bytes > DRAIN_BYTES else {}
        timeout_ms = min(settings.request_timeout_ms, _timeout_ms(headers.get("x-request-timeout-ms"), close))
        context.deadline = arrived + timeout_ms / 1000
        if self._runtime.draining:
            raise Draining(headers=_CLOSE)
        if num_bytes > settings.max_upload_bytes:
            raise TooLarge(f"A request may have up to {shown_size(settings.max_upload_bytes)}.", headers=close)
        expected_s = load.expected_s()
        if load.requests >= settings.max_requests:
            raise Overloaded("Too many requests are in flight.", retry_after_s=expected_s, headers=close)
        if load.requests and load.bytes + num_bytes > settings.max_bytes_in_flight:
            raise Overloaded("Too many bytes are in flight.", retry_after_s=expected_s, headers=close)
        if load.requests and arrived + HEADROOM * expected_s > context.deadline:
            raise Overloaded("The deadline could not be met.", retry_after_s=expected_s, headers=close)
        return num_bytes


class _AdmittedRequest:
    """A request in flight: counts its bytes, and can be cancelled while it is worked on."""

    def __init__(self, runtime: Runtime, declared: int, receive: Receive, send: Send) -> None:
        self._settings = runtime.settings
        self._load = runtime.load
        self._receive = receive
        self._send = send
        self._reserved = declared
        self._num_bytes = 0
        self._is_working = False
        self._is_finished = False
        self.is_cancelled = False
        self.task: asyncio.Task[None] = asyncio.current_task()  # type: ignore[assignment]
        self._load.requests += 1
        self._load.bytes += declared

    async def receive(self) -> Message:
        """Return the next part of the body.

        Raises:
            TooLarge: more bytes than allowed.
            Overloaded: an undeclared body grew beyond the bytes that may be in flight.
        """
        message = await self._receive()
        if message["type"] == "http.request":
            self._count(len(message.get("body", b"")))
            if not message.get("more_body", False) and not self._is_working:
                self._is_working = True
                self._load.begin_work()
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """Pass on the answer, noting its end."""
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._is_finished = True
        return self._send(message)

    def cancel(self) -> None:
        """Cancel the work for a client that hung up."""
        if self._is_working and not self._is_finished:
            self.is_cancelled = True
            self.task.cancel()

    def close(self, *, answered: bool) -> None:
        """Release what was counted."""
        if self._is_working:
            self._load.end_work(answered=answered)
        self._load.bytes -= self._reserved
        self._load.requests -= 1

    def _count(self, size: int) -> None:
        self._num_bytes += size
        if self._num_bytes > self._settings.max_upload_bytes:
            allowed = shown_size(self._settings.max_upload_bytes)
            raise TooLarge(f"A request may have up to {allowed}.", headers=_CLOSE)
        if self._num_bytes > self._reserved:
            self._load.bytes += self._num_bytes - self._reserved
            self._reserved = self._num_bytes
            if self._load.bytes > self._settings.max_bytes_in_flight and self._load.requests > 1:
                expected_s = self._load.expected_s()
                raise Overloaded("Too many bytes are in flight.", retry_after_s=expected_s, headers=_CLOSE)


def _timeout_ms(value: str | None, headers: dict[str, str]) -> float:
    if value is None:
        return math.inf
    try:
        timeout_ms = float(value)
    except ValueError:
        timeout_ms = math.nan
    if not 0 < timeout_ms < math.inf:
        raise InvalidOption("`X-Request-Timeout-Ms` takes a positive number of milliseconds.", headers=headers)
    return timeout_ms
