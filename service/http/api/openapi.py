"""What the OpenAPI document says beyond what FastAPI reads off the routes: bodies, pictures, problems, keys."""

import re
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from model.photo.limits import shown_size
from service.errors import FieldmarkError, error_types
from service.http.api import schemas
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
_REF = "#/components/schemas/{model}"
_COMPONENTS: tuple[type[BaseModel], ...] = (
    schemas.Classification,
    schemas.Classifications,
    schemas.Explanation,
    schemas.Explanations,
    schemas.Models,
    schemas.Liveness,
    schemas.Readiness,
    schemas.Reloaded,
    schemas.Problem,
)
_DESCRIPTION = """
Names the fine-grained class of an image and shows where the model saw it.

Errors are `application/problem+json` (RFC 9457) with a stable `code`, explained at [/errors](errors). Every answer
carries `X-Request-Id` and `Server-Timing`.
"""
_TAGS = [
    {"name": "images", "description": "Classes of images, and the maps behind them."},
    {"name": "models", "description": "What is loaded."},
    {"name": "inference protocol", "description": "Open Inference Protocol v2, as KServe and Triton clients speak it."},
    {"name": "operation", "description": "Probes, metrics, reload."},
]
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
OPEN_OR_KEY: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"key": []}]
"""A key is asked for only where the operator has set some; the document cannot know."""


def ref(model: type[BaseModel]) -> dict[str, str]:
    """Return the reference to a component."""
    return {"$ref": _REF.format(model=model.__name__)}


def problem_example(kind: type[FieldmarkError]) -> dict[str, Any]:
    """Return an example of the problem document of an error."""
    return {
        "type": f"/errors#{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": kind.title,
        "code": kind.code,
        "request_id": "5f2b9d1c3e8a4f6b8d7c6e5f4a3b2c1d",
    }


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the entries of these error statuses, with one example a code."""
    entries: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        kinds = [kind for kind in error_types() if kind.status == status]
        examples = {kind.code: {"summary": kind.title, "value": problem_example(kind)} for kind in kinds}
        entries[status] = {
            "description": "; or: ".join(kind.title for kind in kinds),
            "headers": _HEADERS | _PROBLEM_HEADERS.get(status, {}),
            "content": {"application/problem+json": {"schema": ref(schemas.Problem), "examples": examples}},
        }
    return entries


def json_answer(description: str, *models: type[BaseModel]) -> dict[str, Any]:
    """Return the entry of an answer in JSON, one of several shapes."""
    options = [ref(model) for model in models]
    schema = options[0] if len(options) == 1 else {"anyOf": options}
    return {"description": description, "headers": _HEADERS, "content": {"application/json": {"schema": schema}}}


def query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the entries of the query parameters that make up a model."""
    entries = []
    for name, schema in model.model_json_schema()["properties"].items():
        # Absence is how a query string says null.
        variants = [variant for variant in schema.pop("anyOf", []) if variant.get("type") != "null"]
        if variants:
            schema |= variants[0]
        if schema.get("default", 0) is None:
            del schema["default"]
        description = schema.pop("description")
        schema.pop("title")
        entries.append({"name": name, "in": "query", "required": False, "description": description, "schema": schema})
    return entries


_HEADERS: dict[str, Any] = {
    "X-Request-Id": {
        "description": "The request's own, where it sent a sane one.",
        "schema": {"type": "string"},
        "required": True,
    },
    "Server-Timing": {
        "description": "Milliseconds by stage, as in the metrics: decode, queue, infer, render; and the total.",
        "schema": {"type": "string"},
        "required": True,
    },
}
_PROBLEM_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}, "example": 'Bearer realm="fieldmark"'}},
    429: {
        "Retry-After": {
            "description": "When it is worth trying again, seconds.",
            "schema": {"type": "integer", "minimum": 1},
            "required": True,
        }
    },
}
_PICTURE_HEADERS: dict[str, Any] = _HEADERS | {
    "X-Fieldmark-Label": {
        "description": "The likeliest class, percent-encoded UTF-8.",
        "schema": {"type": "string"},
        "example": "Black%20footed%20Albatross",
    },
    "X-Fieldmark-Probability": {
        "description": "Its probability.",
        "schema": {"type": "number", "minimum": 0, "maximum": 1},
        "example": 0.93,
    },
    "X-Fieldmark-Target": {
        "description": "The class explained, percent-encoded UTF-8.",
        "schema": {"type": "string"},
        "example": "Laysan%20Albatross",
    },
    "X-Fieldmark-Model": {
        "description": "Name and version of the model.",
        "schema": {"type": "string"},
        "example": "cub50/1",
    },
    "X-Fieldmark-Accepted": {
        "description": "With `threshold`: whether the likeliest class reaches it.",
        "schema": {"type": "boolean"},
        "example": True,
    },
}
_IMAGE_BODY = {
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
                            "items": {"type": "string", "format": "binary"},
                            "description": "An image; repeat the field for several.",
                        }
                    },
                },
            },
            **{
                media_type: {"schema": {"type": "string", "format": "binary"}}
                for media_type in (*IMAGE_TYPES, "application/octet-stream")
            },
        },
    },
}
TIMEOUT = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "required": False,
    "description": "Deadline of this request, milliseconds; the server's own where that is sooner.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
WORK_PROBLEMS = (400, 401, 404, 406, 408, 413, 415, 422, 429, 500, 503, 504)
CLASSIFY: dict[str, Any] = {
    "operation_id": "classify",
    "response_class": Response,
    "responses": {
        200: json_answer("The classes.", schemas.Classification, schemas.Classifications),
        **problems(*WORK_PROBLEMS),
    },
    "openapi_extra": {
        **_IMAGE_BODY,
        "security": OPEN_OR_KEY,
        "parameters": [*query_parameters(schemas.ClassifyOptions), TIMEOUT],
    },
}
EXPLAIN: dict[str, Any] = {
    "operation_id": "explain",
    "response_class": Response,
    "responses": {
        200: {
            "description": "A picture, or the classes with their maps.",
            "headers": _PICTURE_HEADERS,
            "content": {
                **{media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in PICTURE_TYPES},
                "application/json": {"schema": {"anyOf": [ref(schemas.Explanation), ref(schemas.Explanations)]}},
            },
        },
        **problems(*WORK_PROBLEMS),
    },
    "openapi_extra": {
        **_IMAGE_BODY,
        "security": OPEN_OR_KEY,
        "parameters": [*query_parameters(schemas.ExplainOptions), TIMEOUT],
    },
}
MODELS: dict[str, Any] = {
    "operation_id": "models",
    "response_class": Response,
    "responses": {200: json_answer("The models.", schemas.Models), **problems(401, 406, 500)},
    "openapi_extra": {"security": OPEN_OR_KEY},
}
LIVEZ: dict[str, Any] = {
    "operation_id": "livez",
    "response_class": Response,
    "responses": {200: json_answer("The process runs.", schemas.Liveness), **problems(500)},
}
READYZ: dict[str, Any] = {
    "operation_id": "readyz",
    "response_class": Response,
    "responses": {200: json_answer("Models are loaded and warm.", schemas.Readiness), **problems(500, 503)},
}
METRICS: dict[str, Any] = {
    "operation_id": "metrics",
    "response_class": Response,
    "responses": {
        200: {
            "description": "Prometheus' text format.",
            "headers": _HEADERS,
            "content": {
                "text/plain": {"schema": {"type": "string"}},
                "application/openmetrics-text": {"schema": {"type": "string"}},
            },
        },
        **problems(500),
    },
}
RELOAD: dict[str, Any] = {
    "operation_id": "reload",
    "response_class": Response,
    "responses": {200: json_answer("What has changed.", schemas.Reloaded), **problems(401, 403, 500, 503)},
    "openapi_extra": {"security": [{"bearer": []}, {"key": []}]},
}


def document(app: FastAPI, further: Iterable[type[BaseModel]], settings: Settings) -> dict[str, Any]:
    """Return the OpenAPI document of an app, made once.

    Args:
        app: with all its routes.
        further: models that answers refer to by name, beside those of `schemas`.
        settings: whose limits count, and the prefix of all addresses, given by a proxy.
    """
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes, tags=_TAGS,
            license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
            servers=[{"url": settings.root_path or "/"}],
        )  # fmt: skip
        _name_path_parameters(found)
        _name_limits(found, settings)
        pairs = [(model, "serialization") for model in (*_COMPONENTS, *further)]
        _, definitions = models_json_schema(pairs, ref_template=_REF)  # type: ignore[arg-type]
        components = found.setdefault("components", {})
        components.setdefault("schemas", {}).update(definitions["$defs"])
        components["securitySchemes"] = _KEYS
        app.openapi_schema = found
    return app.openapi_schema


def _name_limits(found: dict[str, Any], settings: Settings) -> None:
    """Put in what this very server takes."""
    limits = (
        f"up to {settings.max_files} images and {shown_size(settings.max_upload_bytes)} in all, "
        f"{settings.max_pixels:,} pixels an image"
    )
    for path in ("/classify", "/explain"):
        operation = found["paths"][path]["post"]
        body = operation["requestBody"] = deepcopy(operation["requestBody"])
        body["description"] += f" A request holds {limits}."
        body["content"]["multipart/form-data"]["schema"]["properties"]["file"]["maxItems"] = settings.max_files
        for parameter in operation["parameters"]:
            if parameter["name"] == TIMEOUT["name"]:
                parameter["description"] += f" That is {settings.request_timeout_ms:g}."


def _name_path_parameters(found: dict[str, Any]) -> None:
    """Put in the parameters of each path's template, which the endpoints read off the request themselves."""
    for path, operations in found["paths"].items():
        for name in re.findall(r"{(\w+)}", path):
            parameter = {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for operation in operations.values():
                operation.setdefault("parameters", []).append(parameter)
