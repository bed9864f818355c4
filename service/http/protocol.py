"""uvicorn's HTTP protocol with the limits of time and size that it lacks, and a patient close.

uvicorn starts no timer before the first answer: a client that connects and sends nothing, or one byte a minute, keeps
its connection for ever. It also closes a connection right after an early answer, and the reset that follows may
destroy that answer before the client has read it (RFC 9112, section 9.6).

A complete request gets its answer, whatever follows it: bytes that are no request are refused after that answer. A
client that has closed its half of the connection may still be reading, so it is probed.
"""

import asyncio
import logging
import socket
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import httptools
from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import FieldmarkError, MalformedRequest, SlowRequest
from service.http.context import context_of
from service.http.problems import PROBLEM_MEDIA_TYPE, problem_document
from service.settings import Settings

LINGER_S = 2.0
"""How long an answered client may go on sending before its connection is cut, seconds."""
LINGER_BYTES = 1024 * 1024
"""How much it may send meanwhile."""

PROBE_S = 0.1
"""How often a client that has closed its half is probed, seconds."""

INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
Phase = Literal["idle", "header", "body"]

_ACCESS = logging.getLogger("fieldmark.access")


class BadHeader(Exception):
    """Stops the parser; never leaves this module."""


class LimitedHttpProtocol(HttpToolsProtocol):
    """One connection; made by a subclass of `limited_protocol`.

    Attributes:
        settings: of which `header_timeout_s` runs from the connection's start, or from a later header's first byte, to
            the header's end, and `body_timeout_s` from there to the end of the body.
    """

    settings: ClassVar[Settings]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._phase: Phase = "header"
        self._timer: asyncio.TimerHandle | None = None
        self._num_header_bytes = 0
        self._num_raw_bytes = 0
        self._data = b""
        self._linger_bytes: int | None = None
        self._next_refusal: FieldmarkError | None = None
        self._fault = ""
        self._is_half_closed = False
        self._probe: asyncio.TimerHandle | None = None
        self._skips_header = False
        self._on_lost: set[Callable[[], None]] = set()
        self._patient: _PatientTransport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock of the first header."""
        super().connection_made(transport)
        self._patient = _PatientTransport(self, transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks, and cancel the work for this client."""
        self._disarm()
        if self._probe is not None:
            self._probe.cancel()
        super().connection_lost(exc)
        for cancel in list(self._on_lost):
            cancel()

    def data_received(self, data: bytes) -> None:
        """Parse, and start the clock of what is still missing."""
        if self._linger_bytes is not None:
            self._linger_bytes += len(data)
            if self._linger_bytes > LINGER_BYTES:
                self.transport.abort()
                return
        if self._next_refusal is not None:
            return
        self._data = data
        super().data_received(data)
        self._data = b""
        if self._phase == "header":
            self._num_raw_bytes += len(data)
            if self._num_raw_bytes > self.settings.max_header_bytes and self.parser is not None:
                self._refuse(MalformedRequest("The header of the request is too large."))
        self._watch()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return whether to keep writing: a client that has sent a whole request may close its half."""
        if not self._is_answering() or self.scheme == "https":
            return False
        self._drop_unfinished()
        self._disarm()
        if self._probe is None and self.parser.get_http_version() == "1.1":  # older ones know no interim answer
            self._probe = self.loop.call_later(PROBE_S, self._check_client, False)
        self._is_half_closed = True
        return True

    def on_response_complete(self) -> None:
        """Refuse what followed the last request; close the connection of a client that has closed its half."""
        self._patient.end()
        is_last = not self.pipeline
        super().on_response_complete()
        if not is_last or self.transport.is_closing() or self._linger_bytes is not None:
            return
        if self._next_refusal is not None:
            self._phase, self.cycle.response_complete = "header", True  # the cycle may be one that was dropped
            self._refuse(self._next_refusal)
        if self._is_half_closed:
            self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, without waiting for a client that does not read."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    # Parser

    def on_message_begin(self) -> None:
        """A header begins."""
        if self._skips_header:
            return
        super().on_message_begin()
        self._phase = "header"
        self._num_header_bytes = self._num_raw_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Count the address."""
        if not self._skips_header:
            self._count(len(url))
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header field."""
        if not self._skips_header:
            self._count(len(name) + len(value))
            super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._num_header_bytes += size
        if self._num_header_bytes > self.settings.max_header_bytes:
            raise BadHeader

    def on_headers_complete(self) -> None:
        """The body begins."""
        if self._skips_header:
            return
        version, hosts = self.parser.get_http_version(), sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            self._fault = "A request of HTTP/1.1 needs one `Host`."
            raise BadHeader
        if version == "1.0":
            self.expect_100_continue = False
        self._phase = "body"
        self._disarm()
        super().on_headers_complete()
        self.cycle.transport = self._patient  # type: ignore[assignment]
        # The alternative, to wait for the message `http.disconnect`, costs a task a request.
        context_of(self.cycle.scope).on_disconnect = self._on_lost  # type: ignore[arg-type]

    def on_message_complete(self) -> None:
        """The request has arrived."""
        if self.parser.should_upgrade() and self._framing() is not None:
            return  # its body is still to come
        self._skips_header = False
        self._phase = "idle"
        self._disarm()
        super().on_message_complete()
        if self._linger_bytes is not None:
            self.transport.close()

    def _framing(self) -> tuple[bytes, bytes] | None:
        """Return the field that says how long the body is; None without a body."""
        for name, value in self.headers:
            if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")):
                return name, value
        return None

    def _unsupported_upgrade_warning(self) -> None:
        """Ignore an offer of another protocol (RFC 9110, section 7.8), and read on.

        Java's client and `curl --http2` offer HTTP/2 with every request. httptools skips the body of such a request: a
        second parser reads it, behind a short header of our own that is skipped. uvicorn calls this while it handles
        httptools' exception, which holds the offset of the header's end.
        """
        upgrade = sys.exc_info()[1]
        rest = self._data[upgrade.args[0] :] if isinstance(upgrade, httptools.HttpParserUpgrade) else b""
        framing = self._framing()
        if framing is not None:
            self._skips_header = True
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            rest = b"POST / HTTP/1.1\r\n%s: %s\r\n\r\n" % framing + rest
        self._data = rest
        if rest:
            super().data_received(rest)

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refused with a problem document."""
        too_large = max(self._num_header_bytes, self._num_raw_bytes) > self.settings.max_header_bytes
        self._refuse(MalformedRequest("The header of the request is too large." if too_large else self._fault))

    def _watch(self) -> None:
        """Start the clock while a request is incomplete: most arrive in one piece and never start it."""
        if self._timer is not None or self.transport.is_closing() or self._next_refusal or self._is_half_closed:
            return
        if self._phase == "idle":
            # Stray bytes between requests stop uvicorn's own clock.
            is_waiting = self.cycle is not None and self.cycle.response_complete
            if not is_waiting or self.timeout_keep_alive_task is not None:
                return
        settings = self.settings
        seconds = settings.body_timeout_s if self._phase == "body" else settings.header_timeout_s
        self._timer = self.loop.call_later(seconds, self._on_timeout)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.pipeline or self.flow.read_paused:
            self._watch()  # the server has paused reading
        elif self._phase == "header" and not self._num_raw_bytes:
            self.transport.close()  # there is no request to answer
        else:
            self._refuse(SlowRequest())

    # Refusals by the protocol itself

    def _refuse(self, error: FieldmarkError) -> None:
        """Answer with a problem where nothing was answered yet, then close."""
        if self._linger_bytes is not None:  # already answered; the client is still sending
            return
        if self._is_answering():  # earlier requests are answered first
            self._next_refusal = error
            self._drop_unfinished()
            self._disarm()
            return
        cycle = self.cycle if self._phase == "body" else None
        if cycle is not None and cycle.response_started:
            self.transport.close()
            return
        ids, seconds = {"request_id": uuid.uuid4().hex}, 0.0
        if cycle is not None:
            context = context_of(cycle.scope)  # type: ignore[arg-type]
            ids, seconds = context.ids(), time.perf_counter() - context.started
            context.timed_out = True
        self.transport.write(self._problem(error, ids, seconds))
        if cycle is None:  # no request that the application would log
            fields = {**ids, "status": error.status, "problem": error.code}
            _ACCESS.info("request", extra={"fields": fields})
        else:  # stops the application, whose answer would be too late
            cycle.disconnected = True
            cycle.message_event.set()
        self._linger()

    def _is_answering(self) -> bool:
        """Return whether a whole request of this connection is still being answered."""
        if self._phase == "body":
            return bool(self.pipeline)  # holds the one that is arriving while earlier ones are answered
        return self.cycle is not None and not self.cycle.response_complete

    def _drop_unfinished(self) -> None:
        """Drop the request that was arriving behind those being answered."""
        if self._phase == "body":
            self.pipeline.popleft()
            self._phase = "idle"

    def _problem(self, error: FieldmarkError, ids: dict[str, str], seconds: float) -> bytes:
        document = problem_document(error, **ids, root_path=self.settings.root_path)
        body: bytes = to_json(document)
        fields = [
            *self.server_state.default_headers,
            (b"content-type", PROBLEM_MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            (b"x-request-id", ids["request_id"].encode()),
            (b"server-timing", f"total;dur={seconds * 1e3:.2f}".encode()),
            (b"connection", b"close"),
        ]
        return STATUS_LINE[error.status] + b"".join(b"%s: %s\r\n" % field for field in fields) + b"\r\n" + body

    def _linger(self) -> None:
        """Close so that the answer arrives: stop writing, keep reading for a while, then close."""
        if self._linger_bytes is not None or self.transport.is_closing():
            return
        if self._phase == "idle":
            self.transport.close()
            return
        self._linger_bytes = 0
        self._disarm()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_S, self.transport.abort)

    def _check_client(self, has_sent: bool) -> None:
        """Probe a client that has closed its half: until something is sent to it, one that left looks the same.

        `100 Continue` is sent, which every client of HTTP/1.1 accepts before its answer (RFC 9110, section 15.2); the
        system of a client that left responds with a reset. Without this, the work for it would go on.
        """
        with socket.socket(fileno=self.transport.get_extra_info("socket").dup().detach()) as connection:
            try:
                # An answer is written in one go: with nothing to send, none is half sent.
                if not has_sent and not self.transport.get_write_buffer_size():
                    self.transport.write(INTERIM)
                    has_sent = True
                is_gone = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
            except OSError:
                is_gone = True
        if is_gone:
            self.transport.abort()
        else:
            self._probe = self.loop.call_later(PROBE_S, self._check_client, has_sent)


class _PatientTransport:
    """The transport that a request's answer is written to; `close` lingers while the request is still arriving.

    An answer's header waits for the first part of its body: uvicorn writes them apart, which is one more call of the
    system here and one more packet that wakes the client.
    """

    __slots__ = ("_has_begun", "_header", "_protocol", "_transport", "get_extra_info", "is_closing")

    def __init__(self, protocol: LimitedHttpProtocol, transport: asyncio.Transport) -> None:
        self._protocol = protocol
        self._transport = transport
        self._header = b""
        self._has_begun = False
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info

    def write(self, data: bytes) -> None:
        """Write a part of an answer, or `100 Continue` before it."""
        if not self._has_begun and self._protocol.cycle.response_started:
            self._has_begun, self._header = True, data
        else:
            self._transport.writelines((self._header, data) if self._header else (data,))
            self._header = b""

    def end(self) -> None:
        """Write a header without a body, at the end of an answer."""
        if self._header:
            self.write(b"")
        self._has_begun = False

    def close(self) -> None:
        """Close the connection once the answer can be read."""
        self.end()
        self._protocol._linger()


def limited_protocol(settings: Settings) -> type[LimitedHttpProtocol]:
    """Return the protocol class with the limits of these settings."""
    return type("ConfiguredHttpProtocol", (LimitedHttpProtocol,), {"settings": settings})
