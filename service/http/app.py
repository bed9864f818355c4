"""The application: routes, middleware and lifespan put together, nothing else."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import FieldmarkError
from service.http.admission import Admission
from service.http.api import openapi
from service.http.auth import KeyFile, Keys
from service.http.context import Services
from service.http.oip import routes as oip
from service.http.operations import administration, probes
from service.http.problems import answer_problem
from service.http.routes import router
from service.http.site.pages import page_routes
from service.http.telemetry import Problems, Telemetry
from service.inference.models import Registry
from service.inference.predictor import Predictor
from service.metrics import service_version
from service.settings import Settings

_EXPOSED_HEADERS = (
    "X-Request-Id", "Server-Timing", "Retry-After", "X-Fieldmark-Label", "X-Fieldmark-Probability",
    "X-Fieldmark-Target", "X-Fieldmark-Model", "X-Fieldmark-Accepted",
)  # fmt: skip


class Application(FastAPI):
    """FastAPI, whose busiest routes can be answered without its own layers.

    FastAPI and Starlette wrap an endpoint in a dozen layers that these endpoints have no use for: together they cost
    as much as everything else that happens to a request outside of decoding and the model.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._short: dict[str, ASGIApp] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, by the short way if it has one."""
        short = self._short.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if short is None:
            await super().__call__(scope, receive, send)
        else:
            scope["app"] = self
            await short(scope, receive, send)

    def shorten(self, routes: Iterable[BaseRoute]) -> None:
        """Lead POST requests for these routes through this application's middleware straight to their endpoints.

        Args:
            routes: whose endpoints take the request and return a response, and whose paths have no parameters.
                A request under a proxy's prefix still goes the long way.
        """
        for route in routes:
            if isinstance(route, APIRoute) and "POST" in (route.methods or ()):
                layered = _endpoint(route)
                for layer in reversed(self.user_middleware):
                    layered = layer.cls(layered, *layer.args, **layer.kwargs)
                self._short[route.path] = layered


def _endpoint(route: APIRoute) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = route
        response = await route.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    return answer


def create_app(settings: Settings, registry: Registry) -> Application:
    """Return the application; its lifespan starts and stops the registry.

    Args:
        settings: every option.
        registry: the models, not yet started.

    Raises:
        NoKey: a key file is set and cannot be read.
    """
    services = Services(settings, registry, Predictor(registry, settings, registry.metrics), registry.metrics)
    app = _bare_app(settings, services, lifespan=_lifespan(registry))
    # Not include_router: since FastAPI 0.140 or so it nests, and matches every request twice.
    app.router.routes += [*router.routes, *oip.router.routes, *probes.routes]
    if not settings.admin_port:
        app.router.routes += administration.routes
    app.router.routes += page_routes()
    _serve_document(app, settings.root_path)
    app.user_middleware[:] = [
        _telemetry(services),
        *_cors(settings),
        _keys(settings),
        Middleware(Admission, settings=settings, registry=registry),
    ]
    if not settings.cors_origins:
        app.shorten(router.routes)
    return app


def create_admin_app(app: Application) -> Application | None:
    """Return the application of the second port, with `/metrics` and `/admin`; None where there is none.

    Args:
        app: the main one, whose models and metrics it shows; it owns them.
    """
    services: Services = app.state.services
    if not services.settings.admin_port:
        return None
    admin = _bare_app(services.settings, services, lifespan=None)
    admin.router.routes += [*administration.routes, *probes.routes]
    return admin


def _bare_app(settings: Settings, services: Services, *, lifespan: Any) -> Application:
    """Return an application without routes, which tells of every request and asks for keys."""
    app = Application(
        title="fieldmark",
        version=service_version(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        exception_handlers=dict.fromkeys((FieldmarkError, HTTPException, RequestValidationError), answer_problem),
        middleware=[_telemetry(services), _keys(settings)],
    )
    app.state.services = services
    return app


def _lifespan(registry: Registry) -> Any:
    @asynccontextmanager
    async def run(_: FastAPI) -> AsyncIterator[None]:
        await registry.start()
        try:
            yield
        finally:
            await registry.stop()

    return run


def _telemetry(services: Services) -> Middleware:
    return Middleware(Telemetry, metrics=services.metrics, root_path=services.settings.root_path)


def _keys(settings: Settings) -> Middleware:
    api_keys = KeyFile(settings.api_keys_file) if settings.api_keys_file is not None else None
    admin_key = KeyFile(settings.admin_key_file) if settings.admin_key_file is not None else None
    return Middleware(Keys, api_keys=api_keys, admin_key=admin_key)


def _cors(settings: Settings) -> list[Middleware]:
    """Return nothing, unless origins are named: by default no other site's script may read an answer."""
    origins = [origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()]
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-Id", "X-Request-Timeout-Ms"],
            expose_headers=_EXPOSED_HEADERS,
        ),
        # Problems raised further in must pass through the layer above, or a browser hides them from its page.
        Middleware(Problems),
    ]


def _serve_document(app: FastAPI, root_path: str) -> None:
    def document() -> dict[str, Any]:
        return openapi.document(app, oip.SCHEMAS, root_path)

    async def serve(_: Request) -> Response:
        return JSONResponse(document())

    app.add_route("/openapi.json", serve, methods=["GET"], include_in_schema=False)
    app.openapi = document  # type: ignore[method-assign]
