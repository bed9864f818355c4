"""Traces of requests, exported by OpenTelemetry's SDK; imported only where they are on.

What is measured, from which address to which receiver, is read from the standard `OTEL_*` variables by the SDK. FastAPI
could open the spans of requests itself, but not without the query, and knows no stages.

Names: OpenTelemetry's semantic conventions of HTTP server spans, https://opentelemetry.io/docs/specs/semconv/http/.
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

FLUSH_S = 3.0
"""Longest time that stopping waits for the receiver, seconds."""

_REPEATED_FAULTS = ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal")
"""Loggers that write lines for every batch that is not received."""
_SPAN_NAMES = {"infer": "run"}

_LOG = logging.getLogger("fieldmark.service")


class Tracing:
    """The spans of one service, and their export: a bounded buffer, flushed by a thread of the SDK.

    Args:
        version: of the service.

    Raises:
        ValueError: an `OTEL_*` variable has no valid value.
    """

    def __init__(self, version: str) -> None:
        for name in _REPEATED_FAULTS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        own = Resource.create({SERVICE_NAME: "fieldmark", SERVICE_VERSION: version})
        resource = own.merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_ReportingExporter(OTLPSpanExporter())))
        self._tracer = self._provider.get_tracer("fieldmark", version)

    def begin(self, name: str, headers: Mapping[str, str], attributes: Mapping[str, AttributeValue]) -> "RequestSpan":
        """Begin the span of a request, now, below the caller's span.

        Args:
            name: without the route, which is not known yet.
            headers: of the request, where the caller's span is found.
            attributes: known by now; samplers see them.
        """
        parent = propagate.extract(headers)
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes)
        return RequestSpan(self._tracer, span)

    def close(self) -> None:
        """Export what is in the buffer, for at most `FLUSH_S`; the rest is dropped."""
        flushing = threading.Thread(target=self._provider.shutdown, name="fieldmark-traces", daemon=True)
        flushing.start()
        flushing.join(FLUSH_S)


class RequestSpan:
    """The span of one request.

    Args:
        tracer: makes the spans below it.
        span: as begun.

    Attributes:
        trace_id: hexadecimal; None where the request is not sampled.
    """

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self.trace_id = f"{span.get_span_context().trace_id:032x}" if span.is_recording() else None
        # Wall clocks are set back and forth: spans are as long as the monotonic clock says.
        self._epoch_ns = time.time_ns() - time.monotonic_ns()

    def end(
        self,
        name: str,
        attributes: Mapping[str, AttributeValue],
        images: Sequence[Iterable[tuple[str, float, float]]],
        error: str | None = None,
    ) -> None:
        """End the span, now, with the stages of its images below it.

        Args:
            name: with the route.
            attributes: further ones.
            images: stage, begin on `time.monotonic()`'s clock and seconds of each of its intervals; several images
                have a span each.
            error: what failed in the service; None for an answer, a refusal included.
        """
        if not self._span.is_recording():
            return
        self._span.update_name(name)
        self._span.set_attributes(attributes)
        if error is not None:
            self._span.set_attribute("error.type", error)
            self._span.set_status(StatusCode.ERROR)
        within = trace.set_span_in_context(self._span, Context())
        for intervals in images:
            self._add_stages(within, list(intervals), in_span=len(images) > 1)
        self._span.end(self._wall_ns(time.monotonic()))

    def _add_stages(self, within: Context, intervals: list[tuple[str, float, float]], in_span: bool) -> None:
        ended = max(started + seconds for _, started, seconds in intervals)
        if in_span:
            began = min(started for _, started, _ in intervals)
            image = self._tracer.start_span("image", within, start_time=self._wall_ns(began))
            within = trace.set_span_in_context(image, within)
            image.end(self._wall_ns(ended))
        for stage, started, seconds in intervals:
            span = self._tracer.start_span(_SPAN_NAMES.get(stage, stage), within, start_time=self._wall_ns(started))
            span.end(self._wall_ns(started + seconds))

    def _wall_ns(self, monotonic_s: float) -> int:
        return self._epoch_ns + int(monotonic_s * 1e9)


class _ReportingExporter(SpanExporter):
    """Logs one line when the receiver takes no more spans, and one when it takes them again; never its address."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch; called in the SDK's thread."""
        result = self._exporter.export(spans)
        failing = result is not SpanExportResult.SUCCESS
        if failing and not self._failing:
            _LOG.warning("traces are dropped: the receiver that OTEL_EXPORTER_OTLP_ENDPOINT names does not take them")
        elif self._failing and not failing:
            _LOG.info("traces are received again")
        self._failing = failing
        return result

    def shutdown(self) -> None:
        """Stop a retry that waits."""
        self._exporter.shutdown()
