"""What is known of one request while it is answered; protocol, middleware and routes share this record."""

import random
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

from starlette.requests import Request
from starlette.types import Scope

from service.decision.novelty import judge
from service.feedback import Answered, Feedback
from service.http.addresses import UNMATCHED, Address
from service.inference.predictor import Prediction
from service.inference.runtime import Runtime
from service.metrics import STAGES, Interval, Timings

_KEY = "fieldmark"
# An id, not a secret; the system's generator would release the interpreter lock and wait for it under load.
_RANDOM = random.Random()  # noqa: S311
REQUEST_ID = "[A-Za-z0-9._:/+=-]{1,128}"
"""What a request id looks like, as a regular expression."""
_REQUEST_ID = re.compile(REQUEST_ID.encode())
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
"""W3C Trace Context, section 3.2; later versions may append to it."""


class RequestContext:
    """One request: the protocol or the outermost layer creates it, the layers inside add to it.

    Args:
        headers: of the request, as ASGI has them.

    Attributes:
        request_id: the client's `X-Request-Id` where it is valid, else a random one.
        trace_id: of the caller's trace, where it sent a valid `traceparent`, or of our own where it is sampled.
        started: monotonic clock, seconds.
        runtime: of the service; set by the outermost layer.
        address: of the request.
        feedback: of the service, where it collects any; set by the outermost layer.
        root_path: prefix that a proxy serves the service under.
        deadline: by which its work must have started, on `time.monotonic()`'s clock; None where there is none.
        on_disconnect: called when the connection is lost.
        timed_out: whether the protocol has answered 408, because the request did not arrive in time.
        status: of the answer; 0 before its start.
        bytes_in: of the body, as read.
        bytes_out: of the answer's body.
        timings: for several images the longest of each stage, as they run side by side.
        intervals: when the stages of each image were.
        fields: further members of the log line: model, label, images.
        problem: code of the problem answered, if any.
    """

    runtime: Runtime

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.request_id, self.trace_id = _ids(headers)
        self.started = time.perf_counter()
        self.address = Address(UNMATCHED)
        self.feedback: Feedback | None = None
        self.root_path = ""
        self.deadline: float | None = None
        self.on_disconnect: set[Callable[[], None]] = set()
        self.timed_out = False
        self.status = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.timings: Timings = {}
        self.intervals: list[list[Interval]] = []
        self.fields: dict[str, Any] = {}
        self.problem: str | None = None

    def ids(self) -> dict[str, str]:
        """Return what finds this request again, for log lines and problem documents."""
        return {"request_id": self.request_id} | ({"trace_id": self.trace_id} if self.trace_id else {})

    def observe(self, timings: Timings) -> None:
        """Record the times of one image; once more after it was drawn."""
        for stage, seconds in timings.items():
            self.timings[stage] = max(self.timings.get(stage, 0.0), seconds)

    def predicted(self, prediction: Prediction, label: str, probability: float, image: int = 0) -> None:
        """Record one image's result in log and metrics; the predictor has recorded its times in the metrics already.

        Where feedback is collected, it is remembered, too.

        Args:
            prediction: of the image.
            label: its likeliest class.
            probability: of that class.
            image: its place in the request, from 0.
        """
        self.observe(prediction.timings)
        self.intervals.append(prediction.intervals)
        metrics = self.runtime.metrics
        metrics.confidence(probability)
        metrics.predicted(label)
        served = prediction.served
        judged = judge(prediction.novelty, served.manifest.novelty)
        if judged is not None:
            metrics.novelty(served.name, *judged)
        if self.feedback is not None:
            known, quantile = judged or (None, None)
            answered = Answered(label, known, quantile, served.name, served.version, served.sha256, served.manifest)
            self.feedback.remember(self.request_id, image, answered)
        self.fields.setdefault("model", f"{served.name}/{served.version}")
        self.fields.setdefault("label", label)

    def server_timing(self) -> bytes:
        """Return the value of the `Server-Timing` header, milliseconds."""
        total = time.perf_counter() - self.started
        parts = [f"{stage};dur={self.timings[stage] * 1e3:.2f}" for stage in STAGES if stage in self.timings]
        return ", ".join((*parts, f"total;dur={total * 1e3:.2f}")).encode("ascii")


def context_of(request: Request | Scope) -> RequestContext:
    """Return the context of a request; it is created here where the protocol has created none."""
    scope = request.scope if isinstance(request, Request) else request
    state: dict[str, Any] = scope.setdefault("state", {})
    context: RequestContext | None = state.get(_KEY)
    if context is None:
        context = state[_KEY] = RequestContext(scope["headers"])
    return context


def _ids(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, str | None]:
    """Return the id of the request and that of the caller's trace."""
    request_id = trace_id = None
    for name, value in headers:
        if name == b"x-request-id" and request_id is None and _REQUEST_ID.fullmatch(value):
            request_id = value.decode("ascii")
        elif name == b"traceparent" and (found := _TRACEPARENT.fullmatch(value)):
            trace_id = found[1].decode("ascii")
    return request_id or f"{_RANDOM.getrandbits(128):032x}", trace_id
