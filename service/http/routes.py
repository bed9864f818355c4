"""`/classify`, `/explain` and `/models`: read options and images, ask the predictor, give the answer its form."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import quote

from fastapi import APIRouter
from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.errors import NotAcceptable
from service.http.answers import classification, first_class, model_info
from service.http.api import openapi
from service.http.api.schemas import ClassifyOptions, ExplainOptions
from service.http.context import Services, services_of
from service.http.explain import Question, draw, explanation
from service.http.negotiation import JPEG, JSON, PNG, WEBP, choose
from service.http.options import read_options
from service.http.problems import known_error, problem_document
from service.http.telemetry import Exchange, exchange_of
from service.http.uploads import Upload, read_uploads
from service.inference.predictor import Prediction

router = APIRouter()
Answer = dict[str, Any]
T = TypeVar("T")


@router.post("/classify", tags=["images"], **openapi.CLASSIFY)
async def classify(request: Request) -> Response:
    """Name the class of each image.

    Send one image as the raw body, or one or many as the multipart field `file`. One image gets a flat answer;
    several get `results` in their order, with a problem in the place of an image that cannot be answered.
    """
    options = read_options(request.scope, ClassifyOptions)
    choose(_accept(request), [JSON])
    services, exchange = services_of(request), exchange_of(request.scope)
    served = services.registry.get(options.model, options.version)
    uploads = await _uploads(request, services, exchange)
    deadline = request.scope["state"].get("deadline")

    async def answer(upload: Upload) -> Answer:
        prediction = await services.predictor.predict(served, upload.data, lane="classify", deadline=deadline)
        found = classification(prediction, options, filename=upload.filename, request_id=exchange.request_id)
        first = found["predictions"][0]
        services.note(exchange, prediction, first["label"], first["probability"])
        return found

    return await _answer_json(request, uploads, answer)


@router.post("/explain", tags=["images"], **openapi.EXPLAIN)
async def explain(request: Request) -> Response:
    """Show where the model saw the class of each image.

    One image gets a picture (PNG, WebP or JPEG by `Accept`) with the class in the headers, or JSON under
    `Accept: application/json`; several images get JSON.
    """
    options = read_options(request.scope, ExplainOptions)
    accept = _accept(request)
    choose(accept, [PNG, WEBP, JPEG, JSON])
    services, exchange = services_of(request), exchange_of(request.scope)
    served = services.registry.get(options.model, options.version)
    question = Question.of(options, served.manifest)
    uploads = await _uploads(request, services, exchange)
    media_type = choose(accept, [PNG, WEBP, JPEG, JSON]) if len(uploads) == 1 else _json_for_many(accept)
    deadline = request.scope["state"].get("deadline")

    async def predict(upload: Upload) -> Prediction:
        prediction = await services.predictor.predict(
            served,
            upload.data,
            targets=question.targets,
            versus=question.versus,
            layer=question.layer,
            lane="explain",
            deadline=deadline,
            keep_image=media_type != JSON,
        )
        services.note(exchange, prediction, *first_class(prediction))
        question.check(prediction)
        return prediction

    async def answer(upload: Upload) -> Answer:
        prediction = await predict(upload)
        head = classification(prediction, options, filename=upload.filename, request_id=exchange.request_id)
        return await _render(services, exchange, explanation, head, prediction, options)

    if media_type == JSON:
        return await _answer_json(request, uploads, answer)
    prediction = await predict(uploads[0])
    picture = await _render(services, exchange, draw, prediction, options, media_type)
    return Response(picture, headers=_picture_headers(prediction, options), media_type=media_type)


@router.get("/models", tags=["models"], **openapi.MODELS)
async def models(request: Request) -> Response:
    """List the loaded models: labels, layers, provenance."""
    choose(_accept(request), [JSON])
    loaded = services_of(request).registry.models()
    return Response(to_json({"models": [model_info(served) for served in loaded]}), media_type=JSON)


def _accept(request: Request) -> str | None:
    """Return the `Accept` of a request, which may come in several lines."""
    return ", ".join(request.headers.getlist("accept")) or None


async def _uploads(request: Request, services: Services, exchange: Exchange) -> list[Upload]:
    uploads, exchange.bytes_in = await read_uploads(request, services.settings.max_files)
    if len(uploads) > 1:
        exchange.fields["images"] = len(uploads)
    return uploads


def _json_for_many(accept: str | None) -> str:
    try:
        return choose(accept, [JSON])
    except NotAcceptable:
        raise NotAcceptable("Several images can be answered as application/json only.") from None


async def _answer_json(
    request: Request, uploads: list[Upload], answer: Callable[[Upload], Awaitable[Answer]]
) -> Response:
    """Answer one image flat and several in a list, where each may fail alone."""
    if len(uploads) == 1:
        return Response(to_json(await answer(uploads[0])), media_type=JSON)

    async def answer_or_problem(upload: Upload) -> Answer:
        try:
            return await answer(upload)
        except ClientDisconnect:
            raise
        except Exception as error:
            known = known_error(error, request.scope)
            root_path = request.scope.get("root_path", "")
            request_id = exchange_of(request.scope).request_id
            return problem_document(known, request_id=request_id, root_path=root_path) | {"filename": upload.filename}

    results = await asyncio.gather(*(answer_or_problem(upload) for upload in uploads))
    return Response(to_json({"results": results}), media_type=JSON)


async def _render(services: Services, exchange: Exchange, function: Callable[..., T], *args: Any) -> T:
    """Run a rendering function in the predictor's pool and note its time."""
    started = time.perf_counter()
    result = await services.predictor.render(function, *args)
    exchange.stage("render", time.perf_counter() - started)
    return result


def _picture_headers(prediction: Prediction, options: ExplainOptions) -> dict[str, str]:
    """Return the class in header form: percent-encoded UTF-8, since headers are ASCII."""
    label, probability = first_class(prediction)
    labels = prediction.served.manifest.labels
    shown = f"{probability:.6f}"
    headers = {
        "X-Fieldmark-Label": quote(label),
        "X-Fieldmark-Probability": shown,
        "X-Fieldmark-Target": quote(labels[int(prediction.explained[0])]),
        "X-Fieldmark-Model": f"{prediction.served.name}/{prediction.served.version}",
        "Vary": "Accept",
    }
    if options.threshold is not None:
        headers["X-Fieldmark-Accepted"] = "true" if float(shown) >= options.threshold else "false"
    return headers
