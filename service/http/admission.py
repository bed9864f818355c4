"""Who gets in: keys, requests, bytes and time, looked at before a body is read. Pure ASGI.

A queue without bound answers everybody too late. Here a request is counted from its header on; when too many
requests or bytes are in hand, or when the measured pace says that its deadline cannot be met, it is refused at once
with `Retry-After`, its body unread: a client that sent `Expect: 100-continue` never sends it.

It also watches for clients that hang up, and cancels what they asked for: Starlette's `is_disconnected` would need
asking, and is deaf behind `BaseHTTPMiddleware`.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model.photo.limits import shown_size
from service.errors import Draining, InvalidOption, MalformedRequest, Overloaded, TooLarge
from service.http.auth import Keys
from service.http.context import RequestContext, context_of
from service.inference.load import LoadTracker
from service.inference.runtime import Runtime
from service.settings import Settings

DRAIN_BYTES = 1024 * 1024
"""Longest unread body that is worth reading to keep the connection; beyond, it is closed."""
HEADROOM = 1.1
"""What is expected is taken this much longer: the pace varies, and the client's clock starts before the header is
here and ends after the answer is gone."""


class Admission:
    """ASGI middleware in front of all addresses: asks for keys, and bounds the work on images.

    Args:
        app: what it guards.
        runtime: of the service: its bounds, what is in hand, and whether it is stopping.
        keys: of the service.
    """

    def __init__(self, app: ASGIApp, runtime: Runtime, keys: Keys) -> None:
        self._app = app
        self._runtime = runtime
        self._settings = runtime.settings
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in, or raise why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = context_of(scope)
        key = context.address.key
        if key is not None and key in self._keys.asked:
            self._keys.check(key, scope["headers"])
        if scope["method"] != "POST" or not context.address.admitted:
            await self._app(scope, receive, send)
            return
        header = _Header(scope, self._settings.request_timeout_ms)
        self._check(header)
        context.deadline = header.deadline
        await self._admit(context, header.num_bytes, scope, receive, send)

    async def _admit(
        self, context: RequestContext, num_bytes: int | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        load = self._runtime.load
        body = _Body(receive, send, num_bytes, self._settings, load, context.on_disconnect)
        load.requests += 1
        answered = False
        try:
            await self._app(scope, body.receive, body.send)
            answered = True
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not body.client_left or task is None:
                raise
            task.uncancel()
            raise ClientDisconnect from None
        finally:
            body.close(answered=answered)
            load.requests -= 1

    def _check(self, header: "_Header") -> None:
        """Raise why a request cannot be let in, by its header alone."""
        close = header.close_after_refusal
        if self._runtime.draining:
            raise Draining(headers={"Connection": "close"})
        if (header.num_bytes or 0) > self._settings.max_upload_bytes:
            raise TooLarge(_too_large(self._settings), headers=close)
        in_hand = self._runtime.load
        if in_hand.requests >= self._settings.max_requests:
            raise _overloaded("Too many requests are in hand.", in_hand.expected_s(), close)
        if in_hand.bytes + (header.num_bytes or 0) > self._settings.max_bytes_in_flight and in_hand.requests:
            raise _overloaded("Too many bytes are in hand.", in_hand.expected_s(), close)
        expected_s = in_hand.expected_s()
        if in_hand.requests and header.arrived + HEADROOM * expected_s > header.deadline:
            raise _overloaded("The deadline could not be met.", expected_s, close)


class _Header:
    """What admission reads of a request's header."""

    __slots__ = ("arrived", "close_after_refusal", "deadline", "num_bytes")

    def __init__(self, scope: Scope, timeout_ms: float) -> None:
        length = expect = wish = None
        for name, value in scope["headers"]:
            if name == b"content-length":
                length = value
            elif name == b"expect":
                expect = value
            elif name == b"x-request-timeout-ms":
                wish = value
        self.arrived = time.monotonic()
        self.num_bytes = _length(length)
        # A body that may never come, or that is not worth reading, must not stand before the next request.
        unread = expect is not None or self.num_bytes is None or self.num_bytes > DRAIN_BYTES
        self.close_after_refusal = {"Connection": "close"} if unread else {}
        self.deadline = self.arrived + min(timeout_ms, _timeout_ms(wish, self.close_after_refusal)) / 1000


class _Body:
    """A request's way in and out: counts bytes, and notices a client that hangs up while it is worked on."""

    __slots__ = (
        "_finished", "_in_hand", "_num_bytes", "_receive", "_reserved", "_send", "_settings", "_task", "_watch",
        "_watchers", "_working", "client_left",
    )  # fmt: skip

    def __init__(
        self,
        receive: Receive,
        send: Send,
        declared: int | None,
        settings: Settings,
        in_hand: LoadTracker,
        watchers: set[Callable[[], None]] | None,
    ) -> None:
        self._receive = receive
        self._send = send
        self._settings = settings
        self._in_hand = in_hand
        self._reserved = declared or 0
        self._num_bytes = 0
        self._working = False
        self._finished = False
        self._task = asyncio.current_task()
        self._watchers = watchers
        self._watch: asyncio.Task[None] | None = None
        self.client_left = False
        in_hand.bytes += self._reserved

    async def receive(self) -> Message:
        """Return the next part of the body.

        Raises:
            TooLarge: more bytes than allowed.
            Overloaded: an undeclared body grew beyond the bytes that may be in hand.
        """
        message = await self._receive()
        if message["type"] != "http.request":
            return message
        self._count(len(message.get("body", b"")))
        if not message.get("more_body", False) and not self._working:
            self._working = True
            self._in_hand.begin_work()
            if self._watchers is not None:
                self._watchers.add(self._leave)
            else:
                self._watch = asyncio.get_running_loop().create_task(self._watch_client())
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """Pass on the answer, noting its end."""
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._finished = True
        return self._send(message)

    def close(self, *, answered: bool) -> None:
        """Give back what was counted."""
        if self._watchers is not None:
            self._watchers.discard(self._leave)
        if self._watch is not None:
            self._watch.cancel()
        if self._working:
            self._in_hand.end_work(answered=answered)
        self._in_hand.bytes -= self._reserved

    def _count(self, size: int) -> None:
        self._num_bytes += size
        if self._num_bytes > self._settings.max_upload_bytes:
            raise TooLarge(_too_large(self._settings), headers={"Connection": "close"})
        if self._num_bytes > self._reserved:
            self._in_hand.bytes += self._num_bytes - self._reserved
            self._reserved = self._num_bytes
            if self._in_hand.bytes > self._settings.max_bytes_in_flight and self._in_hand.requests > 1:
                expected_s = self._in_hand.expected_s()
                raise _overloaded("Too many bytes are in hand.", expected_s, {"Connection": "close"})

    async def _watch_client(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._leave()

    def _leave(self) -> None:
        """Cancel the work for a client that hung up."""
        if not self._finished and self._task is not None:
            self.client_left = True
            self._task.cancel()


def _length(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not value.isdigit():
        raise MalformedRequest("The Content-Length is not a number.", headers={"Connection": "close"})
    return int(value)


def _timeout_ms(value: bytes | None, headers: dict[str, str]) -> float:
    if value is None:
        return math.inf
    try:
        timeout_ms = float(value)
    except ValueError:
        timeout_ms = math.nan
    if not 0 < timeout_ms < math.inf:
        raise InvalidOption("`X-Request-Timeout-Ms` takes a positive number of milliseconds.", headers=headers)
    return timeout_ms


def _too_large(settings: Settings) -> str:
    return f"A request may have up to {shown_size(settings.max_upload_bytes)}."


def _overloaded(detail: str, expected_s: float, headers: dict[str, str]) -> Overloaded:
    error = Overloaded(detail, retry_after_s=math.ceil(expected_s))
    error.headers.update(headers)
    return error
