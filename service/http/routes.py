"""`/classify`, `/explain` and `/models`: read options and images, run the predictor, format the answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated
from urllib.parse import quote

from fastapi import Query
from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.decision.sets import sets_of
from service.http.addresses import Routes
from service.http.answers import RANKS, Answer, classification, first_class, model_info
from service.http.api import openapi
from service.http.api.schemas import ClassifyOptions, ExplainOptions
from service.http.context import RequestContext, context_of
from service.http.explain import draw, explanation, named_mark, question_of
from service.http.negotiation import JPEG, JSON, PNG, WEBP, accept_of, choose, with_options
from service.http.problems import known_error, problem_document
from service.http.uploads import Upload, named, read_uploads, recognise
from service.inference.engine import Question
from service.inference.predictor import Prediction
from service.inference.targets import check_contrast, marks_of

ROUTES = Routes()


@ROUTES.post("/classify", key="client", admitted=True, tags=["images"], **openapi.CLASSIFY)
@with_options
async def classify(request: Request, options: Annotated[ClassifyOptions, Query()]) -> Response:
    """Name the class of each image.

    Send one image as the raw body, or one or many as the multipart field `file`. One image gets a flat answer;
    several get `results` in their order, with a problem in place of an image that cannot be answered.
    """
    choose(accept_of(request), [JSON])
    context = context_of(request)
    predictor = context.runtime.predictor
    served = context.runtime.models.get(options.model, options.version)
    if options.marks is not None:
        marks_of(served.manifest)
    if options.coverage is not None:
        sets_of(served.manifest)
    uploads = await _uploads(request, context)

    async def answer(upload: Upload) -> Answer:
        with named(upload):
            recognise(upload.data, context.runtime.limits)
            question = Question.about(served.manifest, marks=RANKS if options.marks else ())
            deadline = context.deadline
            prediction = await predictor.predict(served, upload.data, question, lane="classify", deadline=deadline)
        found = classification(prediction, options, filename=upload.filename, request_id=context.request_id)
        first = found["predictions"][0]
        context.predicted(prediction, first["label"], first["probability"])
        return found

    return await _answer_json(request, uploads, answer)


@ROUTES.post("/explain", key="client", admitted=True, tags=["images"], **openapi.EXPLAIN)
@with_options
async def explain(request: Request, options: Annotated[ExplainOptions, Query()]) -> Response:
    """Show where the model saw the class of each image.

    One image gets a picture (PNG, WebP or JPEG by `Accept`) with the class in the headers, or JSON under
    `Accept: application/json`; several images get JSON.
    """
    accept = accept_of(request)
    media_type = choose(accept, [PNG, WEBP, JPEG, JSON])
    context = context_of(request)
    predictor = context.runtime.predictor
    served = context.runtime.models.get(options.model, options.version)
    question = question_of(options, served.manifest)
    if options.coverage is not None:
        sets_of(served.manifest)
    uploads = await _uploads(request, context)
    if len(uploads) > 1:
        media_type = choose(accept, [JSON], "Several images")

    async def predict(upload: Upload) -> Prediction:
        with named(upload):
            recognise(upload.data, context.runtime.limits)
            prediction = await predictor.predict(
                served,
                upload.data,
                question,
                lane="explain",
                deadline=context.deadline,
                keep_image=media_type != JSON,
            )
        context.predicted(prediction, *first_class(prediction))
        check_contrast(prediction)
        return prediction

    async def answer(upload: Upload) -> Answer:
        prediction = await predict(upload)
        head = classification(prediction, options, filename=upload.filename, request_id=context.request_id)
        found = await explanation(head, prediction, options, predictor)
        context.observe(prediction.timings)
        return found

    if media_type == JSON:
        return await _answer_json(request, uploads, answer)
    prediction = await predict(uploads[0])
    picture = await draw(prediction, options, media_type, predictor)
    context.observe(prediction.timings)
    return Response(picture, headers=_picture_headers(prediction, options), media_type=media_type)


@ROUTES.get("/models", key="client", tags=["models"], **openapi.MODELS)
async def models(request: Request) -> Response:
    """List the loaded models: labels, layers, provenance."""
    choose(accept_of(request), [JSON])
    loaded = context_of(request).runtime.models.served()
    return Response(to_json({"models": [model_info(served) for served in loaded]}), media_type=JSON)


async def _uploads(request: Request, context: RequestContext) -> list[Upload]:
    uploads, context.bytes_in = await read_uploads(request, context.runtime.settings.max_files)
    if len(uploads) > 1:
        context.fields["images"] = len(uploads)
    return uploads


async def _answer_json(
    request: Request, uploads: list[Upload], answer: Callable[[Upload], Awaitable[Answer]]
) -> Response:
    """Answer one image flat and several in a list, where each may fail on its own."""
    if len(uploads) == 1:
        return Response(to_json(await answer(uploads[0])), media_type=JSON)

    async def answer_or_problem(upload: Upload) -> Answer:
        try:
            return await answer(upload)
        except ClientDisconnect:
            raise
        except Exception as error:
            known = known_error(error, request.scope)
            context = context_of(request)
            problem = problem_document(known, request_id=context.request_id, root_path=context.root_path)
            return problem | {"filename": upload.filename}

    results = await asyncio.gather(*(answer_or_problem(upload) for upload in uploads))
    return Response(to_json({"results": results}), media_type=JSON)


def _picture_headers(prediction: Prediction, options: ExplainOptions) -> dict[str, str]:
    """Return the class as header fields: percent-encoded UTF-8, since headers are ASCII."""
    label, probability = first_class(prediction)
    labels = prediction.served.manifest.labels
    shown = f"{probability:.6f}"
    headers = {
        "X-Fieldmark-Label": quote(label),
        "X-Fieldmark-Probability": shown,
        "X-Fieldmark-Target": quote(labels[prediction.explained_class]),
        "X-Fieldmark-Model": f"{prediction.served.name}/{prediction.served.version}",
        "Vary": "Accept",
    }
    if options.mark is not None:
        headers["X-Fieldmark-Mark"] = quote(named_mark(prediction))
    if options.threshold is not None:
        headers["X-Fieldmark-Accepted"] = "true" if float(shown) >= options.threshold else "false"
    return headers
