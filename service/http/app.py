"""The application: routes, middleware and lifespan put together, nothing else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.errors import FieldmarkError, MalformedRequest
from service.http import operations
from service.http import routes as images
from service.http.addresses import Addresses, AddressRoute, Routes
from service.http.admission import AdmissionMiddleware
from service.http.api import openapi
from service.http.auth import ApiKeys
from service.http.oip import routes as oip
from service.http.oip.schemas import HEADER_LENGTH, InferRequest
from service.http.problems import answer_problem
from service.http.site import pages
from service.http.telemetry import ProblemMiddleware, TelemetryMiddleware
from service.inference.runtime import Runtime
from service.metrics import service_version
from service.settings import Settings

_EXPOSED_HEADERS = (
    "X-Request-Id", "Server-Timing", "Retry-After", "X-Fieldmark-Label", "X-Fieldmark-Probability",
    "X-Fieldmark-Target", "X-Fieldmark-Model", "X-Fieldmark-Accepted", HEADER_LENGTH,
)  # fmt: skip
_ALLOWED_HEADERS = (
    "Authorization", "Content-Type", "X-API-Key", "X-Request-Id", "X-Request-Timeout-Ms", HEADER_LENGTH,
)  # fmt: skip


def create_app(runtime: Runtime) -> FastAPI:
    """Return the application; its lifespan starts and stops the runtime.

    Args:
        runtime: not yet started.

    Raises:
        NoKey: a key file is set and cannot be read.
    """
    settings = runtime.settings
    routes = [*images.ROUTES, *oip.ROUTES, *operations.PROBES, *pages.routes()]
    app = _bare_app(lifespan=_lifespan(runtime))
    if not settings.admin_port:
        routes += operations.ADMINISTRATION
    routes += _document_routes(app, settings)
    app.router.routes += routes
    app.user_middleware[:] = _layers(runtime, routes, _cors(settings))
    return app


def create_admin_app(runtime: Runtime) -> FastAPI | None:
    """Return the application of the second port, with `/metrics` and `/admin`; None where there is none.

    Args:
        runtime: of the main application, which starts and stops it.
    """
    if not runtime.settings.admin_port:
        return None
    routes = [*operations.ADMINISTRATION, *operations.PROBES]
    admin = _bare_app(lifespan=None)
    admin.router.routes += routes
    admin.user_middleware[:] = _layers(runtime, routes, [])
    return admin


def _bare_app(*, lifespan: Any) -> FastAPI:
    """Return an application without routes and layers, whose every failure becomes a problem document."""
    return FastAPI(
        title="fieldmark",
        version=service_version(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        exception_handlers=dict.fromkeys((FieldmarkError, HTTPException), answer_problem),
    )


def _layers(runtime: Runtime, routes: list[AddressRoute], between: list[Middleware]) -> list[Middleware]:
    """Return the middleware, the outermost first."""
    addresses = Addresses(routes, operations.AREAS)
    return [
        Middleware(TelemetryMiddleware, runtime=runtime, addresses=addresses),
        *between,
        Middleware(AdmissionMiddleware, runtime=runtime, keys=ApiKeys(runtime.settings)),
    ]


def _lifespan(runtime: Runtime) -> Any:
    @asynccontextmanager
    async def run(_: FastAPI) -> AsyncIterator[None]:
        await runtime.start()
        try:
            yield
        finally:
            await runtime.stop()

    return run


def _cors(settings: Settings) -> list[Middleware]:
    """Return nothing, unless origins are named: by default no other site's script may read an answer."""
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
        # Problems raised further in must pass through the layer above, or a browser hides them from its page.
        Middleware(ProblemMiddleware),
    ]


class _CrossOriginMiddleware(CORSMiddleware):
    """What scripts of other sites may do; what they may not is a problem document as any other."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a browser that asks what is allowed.

        Raises:
            MalformedRequest: the origin, the method or a header is not.
        """
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        kept = {name: value for name, value in answer.headers.items() if not name.startswith("content-")}
        what = bytes(answer.body).decode().removeprefix("Disallowed CORS ")
        raise MalformedRequest(f"Scripts of other sites may not ask this, because of: {what}.", headers=kept)


def _document_routes(app: FastAPI, settings: Settings) -> Routes:
    """Return the route of the OpenAPI document, which is made of all other routes when it is first asked for."""
    routes = Routes()

    def document() -> dict[str, Any]:
        return openapi.document(app, [InferRequest], settings)

    @routes.get("/openapi.json", include_in_schema=False)
    async def serve(_: Request) -> Response:
        return JSONResponse(document())

    app.openapi = document  # type: ignore[method-assign]
    return routes
