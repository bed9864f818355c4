"""`/classify`, `/explain` and `/models`: read options and images, run the predictor, format the answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated
from urllib.parse import quote

from fastapi import Query
from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.decision.beliefs import Belief, belief_of
from service.decision.novelty import QUANTILE_DIGITS, judge
from service.decision.sets import sets_of
from service.errors import UndecodableImage
from service.http.addresses import Routes
from service.http.answers import RANKS, Answer, classification, first_class, individual_answer, model_info
from service.http.api import openapi
from service.http.api.schemas import ClassifyOptions, ExplainOptions, PhotosOptions
from service.http.context import RequestContext, context_of
from service.http.explain import draw, explanation, named_mark, question_of
from service.http.negotiation import JPEG, JSON, PNG, WEBP, accept_of, choose, with_options
from service.http.problems import known_error, problem_document
from service.http.uploads import PHOTO_FAULTS, Upload, named, read_uploads, recognise
from service.inference.engine import Question
from service.inference.predictor import Prediction
from service.inference.served import ServedModel
from service.inference.targets import check_contrast, marks_of

ROUTES = Routes()


@ROUTES.post("/classify", key="client", admitted=True, tags=["images"], **openapi.CLASSIFY)
@with_options
async def classify(request: Request, options: Annotated[PhotosOptions, Query()]) -> Response:
    """Name the class of each image.

    Send one image as the raw body, or one or many as the multipart field `file`. One image gets a flat answer;
    several get `results` in their order, with a problem in place of an image that cannot be answered. With
    `individual` they get one answer together, beside these.
    """
    choose(accept_of(request), [JSON])
    context = context_of(request)
    predictor = context.runtime.predictor
    served = context.runtime.models.get(options.model, options.version)
    if options.marks is not None:
        marks_of(served.manifest)
    belief = _belief(options, served)
    uploads = await _uploads(request, context)
    photos: list[Prediction] = []

    async def answer(upload: Upload) -> Answer:
        with named(upload):
            recognise(upload.data, context.runtime.limits)
            question = Question.about(served.manifest, marks=RANKS if options.marks else ())
            again = None if belief is None or options.marks is None else belief.by_class(question)
            prediction = await predictor.predict(
                served, upload.data, question, lane="classify", deadline=context.deadline, again=again
            )
        if belief is not None:
            prediction = belief.applied(prediction)
        photos.append(prediction)
        found = classification(
            prediction, options, filename=upload.filename, request_id=context.request_id, belief=belief
        )
        first = found["predictions"][0]
        context.predicted(prediction, first["label"], first["probability"], upload.index)
        return found

    if not options.individual:
        return await _answer_json(request, uploads, answer)
    # A fault of the service refuses all: left out, the answer would depend on the load.
    results = await _answer_each(request, uploads, answer, PHOTO_FAULTS if len(uploads) > 1 else ())
    if not photos:
        raise UndecodableImage(f"None of the images can be read. The first: {results[0]['detail']}")
    found = individual_answer(photos, results, options, context.request_id, belief)
    context.fields["label"] = found["predictions"][0]["label"]
    return Response(to_json(found), media_type=JSON)


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
    belief = _belief(options, served)
    again = None if belief is None else belief.by_class(question)
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
                again=again,
            )
        if belief is not None:
            prediction = belief.applied(prediction)
        context.predicted(prediction, *first_class(prediction), upload.index)
        check_contrast(prediction)
        return prediction

    async def answer(upload: Upload) -> Answer:
        prediction = await predict(upload)
        head = classification(
            prediction, options, filename=upload.filename, request_id=context.request_id, belief=belief
        )
        found = await explanation(head, prediction, options, predictor)
        context.observe(prediction.timings)
        return found

    if media_type == JSON:
        return await _answer_json(request, uploads, answer)
    prediction = await predict(uploads[0])
    picture = await draw(prediction, options, media_type, predictor)
    context.observe(prediction.timings)
    return Response(picture, headers=_picture_headers(prediction, options, belief), media_type=media_type)


@ROUTES.get("/models", key="client", tags=["models"], **openapi.MODELS)
async def models(request: Request) -> Response:
    """List the loaded models, the one that answers by default first: labels, layers, provenance."""
    choose(accept_of(request), [JSON])
    context = context_of(request)
    registry = context.runtime.models
    first = registry.get() if registry.loaded else None
    served = sorted(registry.served(), key=lambda one: one is not first)
    found: Answer = {"models": [model_info(one) for one in served]}
    if context.feedback is not None:
        found["feedback"] = True
    return Response(to_json(found), media_type=JSON)


def _belief(options: ClassifyOptions, served: ServedModel) -> Belief | None:
    """Return what the options say of the classes that may be there; None where they say nothing.

    Raises:
        NoSets: the model has no calibration for the sets that are requested.
        UnknownPrior: it has no prior of that name; UnknownClass and NoClassLeft likewise.
    """
    if options.coverage is not None:
        sets_of(served.manifest)
    says = options.prior is not None or options.among
    return belief_of(options.prior, options.among, served) if says else None


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
    return Response(to_json({"results": await _answer_each(request, uploads, answer)}), media_type=JSON)


async def _answer_each(
    request: Request,
    uploads: list[Upload],
    answer: Callable[[Upload], Awaitable[Answer]],
    faults: tuple[type[Exception], ...] = (Exception,),
) -> list[Answer]:
    """Return the answer for each image, or a problem in its place where it fails by one of these errors."""

    async def answer_or_problem(upload: Upload) -> Answer:
        try:
            return await answer(upload)
        except ClientDisconnect:
            raise
        except faults as error:
            known = known_error(error, request.scope)
            context = context_of(request)
            problem = problem_document(known, **context.ids(), root_path=context.root_path)
            return problem | {"filename": upload.filename}

    return await asyncio.gather(*(answer_or_problem(upload) for upload in uploads))


def _picture_headers(prediction: Prediction, options: ExplainOptions, belief: Belief | None) -> dict[str, str]:
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
    if belief is not None and belief.prior is not None:
        headers["X-Fieldmark-Prior"] = quote(belief.prior)
    if belief is not None and belief.among is not None:
        headers["X-Fieldmark-Among"] = ",".join(str(labels.index(label)) for label in belief.among)
    if (judged := judge(prediction.novelty, prediction.served.manifest.novelty)) is not None:
        headers["X-Fieldmark-Known"] = "true" if judged.known else "false"
        headers["X-Fieldmark-Novelty"] = f"{judged.quantile:.{QUANTILE_DIGITS}f}"
    if options.mark is not None:
        headers["X-Fieldmark-Mark"] = quote(named_mark(prediction))
    if options.threshold is not None:
        headers["X-Fieldmark-Accepted"] = "true" if float(shown) >= options.threshold else "false"
    return headers
