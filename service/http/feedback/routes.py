"""`POST /feedback`: whether an answer was right, or what it is."""

from pydantic import ValidationError
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from service.errors import EmptyInput, FeedbackOff, MalformedRequest, TooLarge, UnknownClass
from service.http.addresses import Routes
from service.http.context import RequestContext, context_of
from service.http.feedback.schemas import FEEDBACK, FeedbackRequest
from service.http.negotiation import JSON, accept_of, choose
from service.http.problems import invalid_option
from service.inference.targets import resolve_target

MAX_BYTES = 4096
"""Of a body: its members are bounded."""

ROUTES = Routes()


@ROUTES.post("/feedback", key="client", tags=["images"], **FEEDBACK)
async def feedback(request: Request) -> Response:
    """Say whether an answer was right, or what it is; where the operator collects that.

    The answer is named by its `request_id`; only the newest few thousand are remembered. The label goes into a file
    of the operator, beside what the service had answered; the photo does not.
    """
    choose(accept_of(request), [JSON])
    context = context_of(request)
    if context.feedback is None:
        raise FeedbackOff()
    given = _read(await _body(request, context))
    answered = context.feedback.answer(given.request_id, given.image)
    label = None
    if given.label is not None:
        index = resolve_target(given.label, answered.manifest)
        if index < 0:
            raise UnknownClass("Feedback names a class by its label or index, not by its rank.")
        label = answered.manifest.labels[index]
    await context.feedback.append(given.request_id, given.image, label, answered)
    verdict = "none" if label is None else "right" if label == answered.label else "wrong"
    context.runtime.metrics.feedback(answered.name, verdict, answered.label, answered.known)
    taken = {"request_id": given.request_id, "image": given.image, "label": label, "predicted": answered.label}
    return Response(to_json(taken | {"right": verdict == "right"}), media_type=JSON)


async def _body(request: Request, context: RequestContext) -> bytes:
    """Return the body, which is not admitted like that of images: it is no work, and small.

    Raises:
        MalformedRequest: not declared as JSON, which pages of other sites cannot send unasked.
        TooLarge: more than `MAX_BYTES`.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        raise MalformedRequest(f"Send JSON, as `Content-Type: {JSON}`.", headers={"Connection": "close"})
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        context.bytes_in = len(body)
        if len(body) > MAX_BYTES:
            raise TooLarge(f"Feedback may have up to {MAX_BYTES:,} bytes.", headers={"Connection": "close"})
    return bytes(body)


def _read(body: bytes) -> FeedbackRequest:
    """Return a request's JSON.

    Raises:
        EmptyInput: no body.
        MalformedRequest: not a JSON object.
        InvalidOption: a member that is missing, unknown or not valid.
    """
    if not body:
        raise EmptyInput("The body is empty.")
    try:
        return FeedbackRequest.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        if not faults[0]["loc"]:
            raise MalformedRequest("The body is not a JSON object.") from error
        raise invalid_option(faults) from error
