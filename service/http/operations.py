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
"""Paths below these need their key, known or not; paths below an address need the address's key."""


@PROBES.get("/livez", **openapi.LIVEZ)
async def livez(_: Request) -> Response:
    """Report that the process runs and its event loop turns; also while models load and while it drains."""
    return Response(b'{"status":"alive"}', media_type=JSON)


@PROBES.get("/readyz", **openapi.READYZ)
async def readyz(request: Request) -> Response:
    """Report whether requests are answered, and the provider in use, so that a fallback to the CPU shows."""
    runtime = context_of(request).runtime
    if runtime.draining:
        raise Draining()
    if not runtime.ready:
        raise NotReady()
    return Response(to_json({"status": "ready", **runtime.status()}), media_type=JSON)


@ADMINISTRATION.get("/metrics", **openapi.METRICS)
async def metrics(request: Request) -> Response:
    """Return all metrics for Prometheus."""
    body, media_type = context_of(request).runtime.metrics.exposition(request.headers.get("accept"))
    return Response(body, headers={"Content-Type": media_type})


@ADMINISTRATION.post("/admin/reload", key="admin", **openapi.RELOAD)
async def reload(request: Request) -> Response:
    """Read the models folder now, and load, replace or remove what has changed. Needs the admin key."""
    return Response(to_json(await context_of(request).runtime.models.reload()), media_type=JSON)
