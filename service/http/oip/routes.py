"""The Open Inference Protocol v2 under `/v2`, so that KServe, Triton and their clients can talk to this service.

Tensors come as JSON or by the binary extension (raw little-endian bytes after the JSON). The model's input is
`image`, pixels prepared by the client, or `encoded`, whole image files that are processed as by `/classify`; the other
inputs and the outputs are those of the graph.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from service.errors import NotReady, UnsupportedImageType
from service.http.addresses import Routes
from service.http.answers import first_class
from service.http.context import RequestContext, context_of
from service.http.negotiation import JSON
from service.http.oip.schemas import (
    EXTENSIONS,
    HEADER_LENGTH,
    Health,
    ModelMetadata,
    ServerMetadata,
    infer_operation,
    model_operation,
    read_operation,
)
from service.http.oip.tensors import Job, answer, inputs_of, outputs_of, read_job
from service.http.uploads import recognise
from service.inference.predictor import Prediction
from service.inference.served import ServedModel
from service.inference.targets import check_contrast
from service.metrics import service_version

_LARGE_JSON = 64 * 1024
"""JSON longer than this is parsed in a thread, to keep the event loop free."""

ROUTES = Routes("/v2", tags=["inference protocol"])


def _of_model(
    endpoint: Callable[[Request, str, str | None], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Fill in the model that the path names, and its version: of the path, else of the query, None for the newest."""

    @wraps(endpoint)
    async def of_model(request: Request) -> Response:
        version = request.path_params.get("version", request.query_params.get("version"))
        return await endpoint(request, request.path_params["model"], version)

    return of_model


@ROUTES.get("", key="client", **read_operation("v2_server", "What the server speaks.", ServerMetadata, 401))
async def server_metadata(_: Request) -> Response:
    """Return name, version and extensions of the server."""
    return _json({"name": "fieldmark", "version": service_version(), "extensions": EXTENSIONS})


@ROUTES.get("/health/live", **read_operation("v2_live", "The server runs.", Health))
async def live(_: Request) -> Response:
    """Report that the server runs."""
    return _json({"live": True})


@ROUTES.get("/health/ready", **read_operation("v2_ready", "Models are loaded and warm.", Health, 503))
async def ready(request: Request) -> Response:
    """Report whether models are loaded and warm."""
    if not context_of(request).runtime.ready:
        raise NotReady()
    return _json({"ready": True})


@ROUTES.get("/models/{model}", key="client", **model_operation("v2_model", "The model's tensors.", ModelMetadata))
@ROUTES.get(
    "/models/{model}/versions/{version}",
    key="client",
    **model_operation("v2_model_version", "The model's tensors.", ModelMetadata),
)
@_of_model
async def model_metadata(request: Request, model: str, version: str | None = None) -> Response:
    """List the tensors that a model takes and gives."""
    models = context_of(request).runtime.models
    served = models.get(model, version)
    versions = sorted((one.version for one in models.served() if one.name == served.name), key=int)
    return _json(
        {
            "name": served.name,
            "versions": versions,
            "platform": "onnxruntime_onnx",
            "inputs": inputs_of(served.manifest),
            "outputs": outputs_of(served.manifest),
        }
    )


@ROUTES.get("/models/{model}/ready", key="client", **model_operation("v2_model_ready", "It is ready.", Health))
@ROUTES.get(
    "/models/{model}/versions/{version}/ready",
    key="client",
    **model_operation("v2_model_version_ready", "It is ready.", Health),
)
@_of_model
async def model_ready(request: Request, model: str, version: str | None = None) -> Response:
    """Report whether a model is loaded and warm."""
    runtime = context_of(request).runtime
    runtime.models.get(model, version)
    if not runtime.ready:
        raise NotReady()
    return _json({"ready": True})


@ROUTES.post("/models/{model}/infer", key="client", admitted=True, **infer_operation("v2_infer"))
@ROUTES.post(
    "/models/{model}/versions/{version}/infer", key="client", admitted=True, **infer_operation("v2_infer_version")
)
@_of_model
async def infer(request: Request, model: str, version: str | None = None) -> Response:
    """Run a model on prepared pixels (`image`) or on image files (`encoded`), one or many."""
    context = context_of(request)
    served = context.runtime.models.get(model, version)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedImageType("Send the request as it is, without a Content-Encoding.")
    body = await request.body()
    context.bytes_in = len(body)
    declared = request.headers.get(HEADER_LENGTH)
    max_images = context.runtime.settings.max_files
    if len(body) > _LARGE_JSON:
        job = await asyncio.to_thread(read_job, body, declared, served.manifest, max_images)
    else:
        job = read_job(body, declared, served.manifest, max_images)
    predictions = await _predict(context, served, job)
    return answer(served, job, predictions)


def _json(members: dict[str, Any]) -> Response:
    return Response(to_json(members), media_type=JSON)


async def _predict(context: RequestContext, served: ServedModel, job: Job) -> list[Prediction]:
    """Run all images side by side; the first failure fails the request, since a tensor cannot hold a problem."""
    lane = "explain" if any(output.name in ("gradcam", "mark_maps") for output in job.outputs) else "classify"
    predictor = context.runtime.predictor

    async def predict(index: int) -> Prediction:
        image, question = job.images[index], job.questions[index]
        if isinstance(image, bytes):
            recognise(image, context.runtime.limits)
            prediction = await predictor.predict(served, image, question, lane=lane, deadline=context.deadline)
        else:
            prediction = await predictor.predict_array(served, image, question, lane=lane, deadline=context.deadline)
        context.predicted(prediction, *first_class(prediction), index)
        check_contrast(prediction, "an image")
        return prediction

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(predict(index)) for index in range(len(job.images))]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
