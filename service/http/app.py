"""The application: routes, middleware and lifespan put together, nothing else."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.errors import FieldmarkError, MalformedRequest
from service.feedback import Feedback
from service.http import operations
from service.http import routes as images
from service.http.addresses import Addresses, AddressRoute, Routes
from service.http.admission import AdmissionMiddleware
from service.http.api import openapi
from service.http.auth import ApiKeys
from service.http.feedback import routes as feedback
from service.http.feedback.schemas import FeedbackRequest
from service.http.oip import routes as oip
from service.http.oip.schemas import HEADER_LENGTH, InferRequest
from service.http.problems import answer_problem
from service.http.site import pages
from service.http.telemetry import ProblemMiddleware, TelemetryMiddleware
from service.inference.runtime import Runtime
from service.metrics import service_version
from service.settings import Settings, traces_wanted

_EXPOSED_HEADERS = (
    "X-Request-Id", "Server-Timing", "Retry-After", "X-Fieldmark-Label", "X-Fieldmark-Probability",
    "X-Fieldmark-Target", "X-Fieldmark-Model", "X-Fieldmark-Prior", "X-Fieldmark-Among", "X-Fieldmark-Mark",
    "X-Fieldmark-Known", "X-Fieldmark-Novelty", "X-Fieldmark-Accepted", HEADER_LENGTH,
)  # fmt: skip
_ALLOWED_HEADERS = (
    "Authorization", "Content-Type", "X-API-Key", "X-Request-Id", "X-Request-Timeout-Ms", HEADER_LENGTH,
    "traceparent", "tracestate",
)  # fmt: skip
# FastAPI's own telemetry would export queries and messages of exceptions; `service.tracing` exports neither.
_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
_LOG = logging.getLogger("fieldmark.service")
_DOCUMENT = Routes(include_in_schema=False)


@_DOCUMENT.get("/openapi.json")
async def _serve_document(request: Request) -> Response:
    return JSONResponse(request.app.openapi())


def create_app(runtime: Runtime) -> FastAPI:
    """Return the application; its lifespan starts and stops the runtime.

    Args:
        runtime: not yet started.

    Raises:
        NoKey: a key file is set and cannot be read.
        OSError: a file of feedback is set and cannot be written.
    """
    settings = runtime.settings
    routes = [*images.ROUTES, *feedback.ROUTES, *oip.ROUTES, *operations.PROBES, *pages.routes(), *_DOCUMENT]
    if not settings.admin_port:
        routes += operations.ADMINISTRATION
    collected = None
    if settings.feedback_file is not None:
        collected = Feedback(settings.feedback_file, settings.max_feedback_bytes)
    traced, close = _traced()
    between = _cross_origin(settings)
    app = _app(runtime, routes, partial(_run, runtime, close), before=traced, between=between, collected=collected)
    app.openapi = partial(openapi.document, app, [InferRequest, FeedbackRequest], settings)  # type: ignore[method-assign]
    return app


def create_admin_app(runtime: Runtime) -> FastAPI | None:
    """Return the application of the second port, with `/metrics` and `/admin`; None where there is none.

    Args:
        runtime: of the main application, which starts and stops it.
    """
    if not runtime.settings.admin_port:
        return None
    return _app(runtime, [*operations.ADMINISTRATION, *operations.PROBES])


def _app(
    runtime: Runtime,
    routes: list[AddressRoute],
    lifespan: Any = None,
    *,
    before: Sequence[Middleware] = (),
    between: Sequence[Middleware] = (),
    collected: Feedback | None = None,
) -> FastAPI:
    """Return an application whose every failure becomes a problem document."""
    addresses = Addresses(routes, operations.AREAS)
    telemetry = Middleware(TelemetryMiddleware, runtime=runtime, addresses=addresses, feedback=collected)
    admission = Middleware(AdmissionMiddleware, runtime=runtime, keys=ApiKeys(runtime.settings))
    return FastAPI(
        title="fieldmark",
        version=service_version(),
        routes=list(routes),
        middleware=[*before, telemetry, *between, admission],
        telemetry=_NO_TELEMETRY,
        lifespan=lifespan,
        openapi_url=None,
        redirect_slashes=False,
        exception_handlers=dict.fromkeys((FieldmarkError, HTTPException), answer_problem),
    )


@asynccontextmanager
async def _run(runtime: Runtime, close: Callable[[], None], _: FastAPI) -> AsyncIterator[None]:
    await runtime.start()
    try:
        yield
    finally:
        await runtime.stop()
        await asyncio.to_thread(close)


def _traced() -> tuple[list[Middleware], Callable[[], None]]:
    """Return the layer that traces requests where the `OTEL_*` variables ask for it, and what exports the rest.

    A fault in these variables is reported, and switches off the traces, not the service: a platform often sets them
    for all that runs on it.
    """
    try:
        if traces_wanted():
            # Imported here: without traces neither OpenTelemetry's SDK nor its exporter is in the process.
            from service.http.tracing.middleware import TracingMiddleware
            from service.tracing import Tracing

            tracing = Tracing(service_version())
            return [Middleware(TracingMiddleware, tracing=tracing)], tracing.close
    except ModuleNotFoundError:
        _LOG.warning("traces are off: OTEL_* variables ask for them, and the extra `otel` is not installed")
    except ValueError as error:
        _LOG.warning("traces are off: %s", error)
    return [], lambda: None


def _cross_origin(settings: Settings) -> list[Middleware]:
    """Return the layers for scripts of other sites, which may read no answer unless their origins are named."""
    origins = [origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()]
    if not origins:
        return []
    return [
        Middleware(
            _CrossOriginMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=_ALLOWED_HEADERS,
            expose_headers=_EXPOSED_HEADERS,
        ),
        # Problems raised further in must pass through the layer above: browsers hide them from the page otherwise.
        Middleware(ProblemMiddleware),
    ]


class _CrossOriginMiddleware(CORSMiddleware):
    """Limits what scripts of other sites may request; refusals are problem documents."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a browser's preflight request.

        Raises:
            MalformedRequest: the origin, the method or a header is not allowed.
        """
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        kept = {name: value for name, value in answer.headers.items() if not name.startswith("content-")}
        what = bytes(answer.body).decode().removeprefix("Disallowed CORS ")
        raise MalformedRequest(f"Scripts of other sites may not send this request, because of: {what}.", headers=kept)
