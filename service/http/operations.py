"""Probes, metrics and administration."""

from fastapi import APIRouter
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from service.errors import Draining, NotReady
from service.http.api import openapi
from service.http.context import services_of
from service.http.negotiation import JSON

probes = APIRouter(tags=["operation"])
administration = APIRouter(tags=["operation"])


@probes.get("/livez", **openapi.LIVEZ)
async def livez() -> Response:
    """Tell that the process runs and its loop turns; true while models load and while it drains."""
    return Response(b'{"status":"alive"}', media_type=JSON)


@probes.get("/readyz", **openapi.READYZ)
async def readyz(request: Request) -> Response:
    """Tell whether requests are answered; names the provider in use, so that a fallback to the CPU is seen."""
    registry = services_of(request).registry
    if registry.draining:
        raise Draining()
    if not registry.ready:
        raise NotReady()
    return Response(to_json({"status": "ready", **registry.status()}), media_type=JSON)


@administration.get("/metrics", **openapi.METRICS)
async def metrics(request: Request) -> Response:
    """Show all metrics for Prometheus."""
    body, media_type = services_of(request).metrics.exposition(request.headers.get("accept"))
    return Response(body, headers={"Content-Type": media_type})


@administration.post("/admin/reload", **openapi.RELOAD)
async def reload(request: Request) -> Response:
    """Look at the models folder now, and swap what has changed. Needs the admin key."""
    return Response(to_json(await services_of(request).registry.reload()), media_type=JSON)
