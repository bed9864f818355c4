"""Every error that a client can get, and its status.

FieldmarkError
├── EmptyInput              400  empty_input
├── MalformedRequest        400  malformed_request
├── Unauthorized            401  unauthorized
├── Forbidden               403  forbidden
│   └── FeedbackOff         403  feedback_off
├── NotFound                404  not_found
│   ├── UnknownModel        404  unknown_model
│   └── UnknownRequest      404  unknown_request
├── MethodNotAllowed        405  method_not_allowed
├── NotAcceptable           406  not_acceptable
├── SlowRequest             408  slow_request
├── TooLarge                413  too_large
├── UnsupportedImageType    415  unsupported_image_type
├── Unprocessable           422
│   ├── UndecodableImage    422  undecodable_image
│   ├── TooManyPixels       422  too_many_pixels
│   ├── UnknownClass        422  unknown_class
│   ├── UnknownPrior        422  unknown_prior
│   ├── NoClassLeft         422  no_class_left
│   ├── UnknownMark         422  unknown_mark
│   ├── NoMarks             422  no_marks
│   ├── NoSets              422  no_sets
│   └── InvalidOption       422  invalid_option
├── Overloaded              429  overloaded
├── InternalError           500  internal_error
├── NotReady                503  not_ready
│   └── Draining            503  draining
├── FeedbackUnavailable     503  feedback_unavailable
└── DeadlineExceeded        504  deadline_exceeded

Domain code raises these; `service.http.problems` turns them into `application/problem+json` (RFC 9457).
The decoder raises its own errors, which `of_photo` turns into these.
`detail` is written for the client: it never holds a path, a library's message or a traceback.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from model.photo import errors as photo


class FieldmarkError(Exception):
    """Root of the tree; raise a leaf.

    Args:
        detail: what is wrong with this request, in a sentence for the client.
        headers: further response headers.
        extensions: further members of the problem document, e.g. `nearest` labels.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "The service failed"
    remedy: ClassVar[str] = "Try again; if it fails again, send the request id to the operator."

    def __init__(
        self, detail: str = "", *, headers: Mapping[str, str] | None = None, extensions: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.headers = dict(headers or {})
        self.extensions = dict(extensions or {})


class EmptyInput(FieldmarkError):
    """No image, or an image of zero bytes."""

    status, code, title = 400, "empty_input", "No image was sent"
    remedy = "Send the image as the raw body or as the multipart field `file`."


class MalformedRequest(FieldmarkError):
    """The body or its framing cannot be parsed."""

    status, code, title = 400, "malformed_request", "The request cannot be parsed"
    remedy = "Check the multipart framing, the JSON, or the declared lengths."


class Unauthorized(FieldmarkError):
    """No API key, or an unknown one."""

    status, code, title = 401, "unauthorized", "An API key is needed"
    remedy = "Send a valid key as `Authorization: Bearer KEY` or `X-API-Key: KEY`."


class Forbidden(FieldmarkError):
    """The key does not allow this."""

    status, code, title = 403, "forbidden", "Access is not allowed"
    remedy = "Use the admin key; without one set, administration is off."


class FeedbackOff(Forbidden):
    """This server does not collect what users say of its answers."""

    code, title = "feedback_off", "Feedback is off"
    remedy = "The operator switches it on with `FIELDMARK_FEEDBACK_FILE`."


class NotFound(FieldmarkError):
    """No such address."""

    status, code, title = 404, "not_found", "There is nothing at this address"
    remedy = "See `/docs` for the addresses."


class UnknownModel(NotFound):
    """No such model or version is loaded."""

    code, title = "unknown_model", "That model is not served here"
    remedy = "See `/models` for names and versions."


class UnknownRequest(NotFound):
    """Feedback on an answer that is not remembered: too long ago, of another instance, or never given."""

    code, title = "unknown_request", "That answer is not remembered here"
    remedy = "Send feedback soon after the answer, to the same instance, with the answer's `request_id`."


class MethodNotAllowed(FieldmarkError):
    """The address exists, the method does not."""

    status, code, title = 405, "method_not_allowed", "The address does not support that method"
    remedy = "See the `Allow` header."


class NotAcceptable(FieldmarkError):
    """None of the forms in `Accept` is available."""

    status, code, title = 406, "not_acceptable", "None of the accepted forms is available"
    remedy = "Accept `application/json`; several images are answered as JSON only."


class SlowRequest(FieldmarkError):
    """Header or body did not arrive in time."""

    status, code, title = 408, "slow_request", "The request did not arrive in time"
    remedy = "Send it again over a faster connection."


class TooLarge(FieldmarkError):
    """More bytes, files or parts than allowed."""

    status, code, title = 413, "too_large", "The request is too large"
    remedy = "Send fewer or smaller images."


class UnsupportedImageType(FieldmarkError):
    """The bytes are of a format outside the allow-list."""

    status, code, title = 415, "unsupported_image_type", "The image format is not supported"
    remedy = "Send JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF; HEIC where the server has its decoder."


class Unprocessable(FieldmarkError):
    """Well-formed, but cannot be processed; raise a leaf."""

    status, code, title = 422, "invalid_option", "The request cannot be processed"


class UndecodableImage(Unprocessable):
    """A supported format by its first bytes, but broken or truncated."""

    code, title = "undecodable_image", "The image cannot be decoded"
    remedy = "Check that the file opens in an image viewer and was sent whole."


class TooManyPixels(Unprocessable):
    """More pixels than the service decodes."""

    code, title = "too_many_pixels", "The image has too many pixels"
    remedy = "Scale the image down."


class UnknownClass(Unprocessable):
    """No such label, index or rank in this model."""

    code, title = "unknown_class", "The model has no such class"
    remedy = "Use a label of `/models`, `class:INDEX` or `rank:N`; `nearest` lists similar labels."


class UnknownPrior(Unprocessable):
    """No such prior beside this model."""

    code, title = "unknown_prior", "The model has no such prior"
    remedy = "Use a name of `priors` in `/models`; `nearest` lists similar names."


class NoClassLeft(Unprocessable):
    """The candidates and the prior rule out every class."""

    code, title = "no_class_left", "No class is left"
    remedy = "Name more candidates in `among`, or leave out `prior`, which is 0 for all that are named."


class UnknownMark(Unprocessable):
    """No such field mark, index or rank in this model."""

    code, title = "unknown_mark", "The model has no such field mark"
    remedy = "Use a name of `marks` in `/models`, `mark:INDEX` or `rank:N`; `nearest` lists similar names."


class NoMarks(Unprocessable):
    """Field marks were requested of a model that has none."""

    code, title = "no_marks", "The model has no field marks"
    remedy = "Leave out `marks`, `mark` and `view=marks`, or name a model whose `marks` in `/models` are not empty."


class NoSets(Unprocessable):
    """A set of classes was requested of a model that has no calibration for it."""

    code, title = "no_sets", "The model has no sets"
    remedy = "Leave out `coverage`, or name a model whose `sets` in `/models` is true."


class InvalidOption(Unprocessable):
    """A query parameter or header has a value outside its range."""

    code, title = "invalid_option", "An option has an invalid value"
    remedy = "See `/docs` for the options and their ranges."


class Overloaded(FieldmarkError):
    """The limit of requests, bytes or waiting time is reached; carries `Retry-After`.

    Args:
        detail: as in `FieldmarkError`.
        retry_after_s: when to try again; rounded up to whole seconds, at least 1.
        headers: as in `FieldmarkError`.
    """

    status, code, title = 429, "overloaded", "The service is busy"
    remedy = "Wait for the seconds in `Retry-After`, then send it again."

    def __init__(self, detail: str = "", *, retry_after_s: float = 1, headers: Mapping[str, str] | None = None) -> None:
        self.retry_after_s = max(1, math.ceil(retry_after_s))
        super().__init__(detail, headers={"Retry-After": str(self.retry_after_s), **(headers or {})})


class InternalError(FieldmarkError):
    """A fault of the service: logged, and not described to the client."""


class NotReady(FieldmarkError):
    """No model is loaded and warm yet, or the worker is being restarted."""

    status, code, title = 503, "not_ready", "The service is not ready"
    remedy = "Wait until `/readyz` answers 200."


class Draining(NotReady):
    """The service is stopping: it finishes accepted requests and refuses new ones."""

    code, title = "draining", "The service is stopping"
    remedy = "Send the request to another instance."


class FeedbackUnavailable(FieldmarkError):
    """The file of feedback is full or cannot be written; photos are answered as ever."""

    status, code, title = 503, "feedback_unavailable", "Feedback cannot be written down just now"
    remedy = "Try again later; the operator finds the reason in the log."


class DeadlineExceeded(FieldmarkError):
    """The answer would be, or was, later than the deadline."""

    status, code, title = 504, "deadline_exceeded", "The deadline has passed"
    remedy = "Allow more time with `X-Request-Timeout-Ms`, or try when the service is less busy."


def error_types() -> Iterator[type[FieldmarkError]]:
    """Yield every leaf that a client can get, by status and code; the source of the `/errors` page."""
    found: dict[str, type[FieldmarkError]] = {}

    def walk(kind: type[FieldmarkError]) -> None:
        if kind not in (FieldmarkError, Unprocessable):
            found.setdefault(kind.code, kind)
        for child in kind.__subclasses__():
            walk(child)

    walk(FieldmarkError)
    yield from sorted(found.values(), key=lambda kind: (kind.status, kind.code))


_OF_PHOTOS: dict[type[photo.PhotoError], type[FieldmarkError]] = {
    photo.EmptyPhoto: EmptyInput,
    photo.UnsupportedFormat: UnsupportedImageType,
    photo.UndecodablePhoto: UndecodableImage,
    photo.TooManyPixels: TooManyPixels,
}


def of_photo(error: photo.PhotoError) -> FieldmarkError:
    """Return the leaf of this tree for an error of the decoder, with the same detail."""
    return _OF_PHOTOS[type(error)](error.detail)
