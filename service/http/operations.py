"""Probes, metrics and administration."""

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from service.errors import Draining, NotReady
from service.http.addresses import Address, Routes
from service.http.api import openapi
from service.http.context import context_of
from service.http.negotiation import JSON

PROBES = Routes(tags=["operation"])
ADMINISTRATION = Routes(tags=["operation"])
AREAS = (Address("/admin", key="admin"), Address("/v2/health"))
"""What lies below these asks for their keys, also where nothing is; below other addresses for the address's own."""


@PROBES.get("/livez", **openapi.LIVEZ)
async def livez(_: Request) -> Response:
    """Tell that the process runs and its loop turns; true while models load and while it drains."""
    return Response(b'{"status":"alive"}', media_type=JSON)


@PROBES.get("/readyz", **openapi.READYZ)
async def readyz(request: Request) -> Response:
    """Tell whether requests are answered; names the provider in use, so that a fallback to the CPU is seen."""
    runtime = context_of(request).runtime
    if runtime.draining:
        raise Draining()
    if not runtime.ready:
        raise NotReady()
    return Response(to_json({"status": "ready", **runtime.status()}), media_type=JSON)


@ADMINISTRATION.get("/metrics", **openapi.METRICS)
async def metrics(request: Request) -> Response:
    """Show all metrics for Prometheus."""
    body, media_type = context_of(request).runtime.metrics.exposition(request.headers.get("accept"))
    return Response(body, headers={"Content-Type": media_type})


@ADMINISTRATION.post("/admin/reload", key="admin", **openapi.RELOAD)
async def reload(request: Request) -> Response:
    """Look at the models folder now, and swap what has changed. Needs the admin key."""
    return Response(to_json(await context_of(request).runtime.models.reload()), media_type=JSON)
