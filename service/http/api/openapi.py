"""What FastAPI cannot derive from the routes for the OpenAPI document: bodies, pictures, problems, keys."""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from model.photo.limits import shown_size
from service.errors import error_types
from service.http.api import schemas
from service.http.problems import problem_document
from service.settings import Settings

IMAGE_TYPES = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/gif",
    "image/bmp",
    "image/tiff",
    "image/avif",
    "image/heic",
)
PICTURE_TYPES = ("image/png", "image/webp", "image/jpeg")
_DESCRIPTION = """
Names the fine-grained class of an image and shows where the model saw it.

A model that has `marks` in [/models](models) says it in words, too: `/classify?marks=3` and `/explain?marks=3` list the
field marks that are seen, each with its place; with `versus`, those that distinguish the two classes. `seen` is how
sure the model is, `typical` the share of observers who see the mark on the class. Where `evidence` is below 1, a mark
is seen, but not where the decision looked: do not pass it off as the reason. A mark without `at` cannot be located.

`among` and `prior` say what may be there and how common it is: the probabilities, their order, ranks and maps follow
Bayes' rule, starting from equally common classes, as those the model was trained on. `individual` of `/classify` takes
all images together. Its probabilities are fitted on photos of one class; those of one bird are more alike and say less.

A model whose `novelty` in [/models](models) is true says of every image whether it is `known`: like photos of some
class. Where it is not, the classes are only the nearest ones.

A model that has `sets` answers `coverage=0.9` with the `set` of classes that holds the true one for 90% of images like
those it was trained on; one class where it is sure, and never none. With `among`, `prior` or `individual` the set is
made of the changed probabilities, and the share was not measured.

Errors are `application/problem+json` (RFC 9457) with a stable `code`, explained at [/errors](errors). Every answer
carries `X-Request-Id` and `Server-Timing`.
"""
_TAGS = [
    {"name": "images", "description": "Classes of images, and the maps that explain them."},
    {"name": "models", "description": "What is loaded."},
    {"name": "inference protocol", "description": "Open Inference Protocol v2, as KServe and Triton clients speak it."},
    {"name": "operation", "description": "Probes, metrics, reload."},
]
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def operation(name: str, answer: dict[str, Any], *statuses: int, **extra: Any) -> dict[str, Any]:
    """Return the options of a route that describe it.

    Args:
        name: of the operation, unique in the document.
        answer: entry of the answer 200: its `description`, and its `model` where it is JSON.
        statuses: of the problems it may answer, besides 500.
        extra: further members of the operation's entry.
    """
    return {
        "operation_id": name,
        "responses": {200: {"headers": _HEADERS, **answer}} | {status: _problem(status) for status in (*statuses, 500)},
        "openapi_extra": extra,
    }


def _problem(status: int) -> dict[str, Any]:
    """Return the entry of an error status, with one example a code."""
    kinds = [kind for kind in error_types() if kind.status == status]
    examples = {
        kind.code: {"summary": kind.title, "value": problem_document(kind(), request_id=schemas.EXAMPLE_ID)}
        for kind in kinds
    }
    return {
        "description": "; or: ".join(kind.title for kind in kinds),
        "headers": _HEADERS | _PROBLEM_HEADERS.get(status, {}),
        "content": {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": examples}
        },
    }


def _header(description: str, schema: dict[str, Any], **further: Any) -> dict[str, Any]:
    return {"description": description, "schema": schema, **further}


_TEXT = {"type": "string"}
_TIMES = "Milliseconds by stage, as in the metrics: decode, queue, infer, render; and the total."
_HEADERS = {
    "X-Request-Id": _header("The request's own, where it sent a valid one.", _TEXT, required=True),
    "Server-Timing": _header(_TIMES, _TEXT, required=True),
}
_PROBLEM_HEADERS = {
    401: {"WWW-Authenticate": _header("How to send a key.", _TEXT, example='Bearer realm="fieldmark"')},
    429: {"Retry-After": _header("When to try again, seconds.", {"type": "integer", "minimum": 1}, required=True)},
}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_KNOWN = "Of a model with novelty: whether the image is like photos of some class."
_NOVELTY = "Of a model with novelty: share of held-out photos of the classes that are less novel."
_ACCEPTED = "With `threshold`: whether the likeliest class reaches it."
_PICTURE_HEADERS = _HEADERS | {
    "X-Fieldmark-Label": _header("The likeliest class, percent-encoded UTF-8.", _TEXT, example="Yellow%20Warbler"),
    "X-Fieldmark-Probability": _header("Its probability.", _SHARE, example=0.93),
    "X-Fieldmark-Target": _header("The class explained, percent-encoded UTF-8.", _TEXT, example="Laysan%20Albatross"),
    "X-Fieldmark-Model": _header("Name and version of the model.", _TEXT, example="cub50/1"),
    "X-Fieldmark-Prior": _header("With `prior`: its name, percent-encoded UTF-8.", _TEXT, example="May"),
    "X-Fieldmark-Among": _header("With `among`: the indices of these classes.", _TEXT, example="7,12"),
    "X-Fieldmark-Mark": _header(
        "With `mark`: the name of that field mark, percent-encoded UTF-8.", _TEXT, example="yellow%20crown"
    ),
    "X-Fieldmark-Known": _header(_KNOWN, {"type": "boolean"}, example=True),
    "X-Fieldmark-Novelty": _header(_NOVELTY, _SHARE, example=0.42),
    "X-Fieldmark-Accepted": _header(_ACCEPTED, {"type": "boolean"}, example=True),
}
_FILE = {"type": "string", "format": "binary"}
TIMEOUT = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "required": False,
    "description": "Deadline of this request, milliseconds; never later than the server's own.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
WORK_PROBLEMS = (400, 401, 404, 406, 408, 413, 415, 422, 429, 503, 504)
_IMAGE_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One image as it is, or a form with `file` once or more.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "array",
                            "minItems": 1,
                            "items": _FILE,
                            "description": "An image; repeat the field for several.",
                        }
                    },
                },
            },
            **{media_type: {"schema": _FILE} for media_type in (*IMAGE_TYPES, "application/octet-stream")},
        },
    },
    "parameters": [TIMEOUT],
}
CLASSIFY = operation(
    "classify",
    {"description": "The classes.", "model": schemas.Classification | schemas.Classifications | schemas.Individual},
    *WORK_PROBLEMS,
    **_IMAGE_REQUEST,
)
EXPLAIN = operation(
    "explain",
    {
        "description": (
            "A picture, or the classes with their maps. PNG loses nothing; WebP and JPEG are lossy: of overlays of 240 "
            "photos, a value of 0 to 255 differs from the PNG's by 3.2 on average (95% of the photos: 4.9) and by at "
            "most 76 in WebP, by 1.5 (2.6) and at most 75 in JPEG."
        ),
        "headers": _PICTURE_HEADERS,
        "content": {media_type: {"schema": _FILE} for media_type in PICTURE_TYPES},
        "model": schemas.Explanation | schemas.Explanations,
    },
    *WORK_PROBLEMS,
    **_IMAGE_REQUEST,
)
MODELS = operation("models", {"description": "The models.", "model": schemas.Models}, 401, 406)
LIVEZ = operation("livez", {"description": "The process runs.", "model": schemas.Liveness})
READYZ = operation("readyz", {"description": "Models are loaded and warm.", "model": schemas.Readiness}, 503)
RELOAD = operation("reload", {"description": "What has changed.", "model": schemas.Reloaded}, 401, 403, 503)
METRICS = operation(
    "metrics",
    {
        "description": "Prometheus' text format.",
        "content": {"text/plain": {"schema": _TEXT}, "application/openmetrics-text": {"schema": _TEXT}},
    },
)


def document(app: FastAPI, bodies: Iterable[type[BaseModel]], settings: Settings) -> dict[str, Any]:
    """Return the OpenAPI document of an app, made once.

    Args:
        app: with all its routes.
        bodies: models that request bodies refer to by name; FastAPI finds those of answers.
        settings: with the limits, and the prefix that a proxy gives all addresses.
    """
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes, tags=_TAGS,
            license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
            servers=[{"url": settings.root_path or "/"}],
        )  # fmt: skip
        found = deepcopy(found)  # it shares its parts with the routes, and so with other applications
        _add_limits(found, settings)
        _, definitions = models_json_schema(
            [(model, "validation") for model in bodies], ref_template="#/components/schemas/{model}"
        )
        found["components"]["schemas"] |= definitions["$defs"]
        found["components"]["securitySchemes"] = _KEYS
        app.openapi_schema = found
    return app.openapi_schema


def _add_limits(found: dict[str, Any], settings: Settings) -> None:
    """Add the limits of this server."""
    limits = (
        f"up to {settings.max_files} images and {shown_size(settings.max_upload_bytes)} in all, "
        f"{settings.max_pixels:,} pixels an image; it is answered within {settings.request_timeout_ms:g} ms"
    )
    for path in ("/classify", "/explain"):
        body = found["paths"][path]["post"]["requestBody"]
        body["description"] += f" A request may hold {limits}."
        body["content"]["multipart/form-data"]["schema"]["properties"]["file"]["maxItems"] = settings.max_files
