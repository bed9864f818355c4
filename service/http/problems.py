"""Any failure → one `application/problem+json` document (RFC 9457), in the service's own words."""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from service.errors import FieldmarkError, InternalError, InvalidOption, MethodNotAllowed, NotFound
from service.http.context import context_of

PROBLEM_MEDIA_TYPE = "application/problem+json"
_LOG = logging.getLogger("fieldmark.service")
_ROUTING_ERRORS: dict[int, type[FieldmarkError]] = {404: NotFound, 405: MethodNotAllowed}
_REASONS: Final = {
    "bool_parsing": "must be true or false",
    "extra_forbidden": "is not a parameter of this address",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "int_type": "must be a whole number",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "missing": "is missing",
    "repeated": "is given more than once",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must not be empty",
    "string_type": "must be text",
    "too_long": "must have at most {max_length} values",
}


def problem_document(
    error: FieldmarkError, *, request_id: str, trace_id: str | None = None, root_path: str = ""
) -> dict[str, Any]:
    """Return the members of the problem document of an error."""
    return {
        "type": f"{root_path}/errors#{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "request_id": request_id,
        **({"trace_id": trace_id} if trace_id else {}),
        **error.extensions,
    }


def known_error(error: Exception, scope: Scope) -> FieldmarkError:
    """Return the error to report for an exception; an unknown one is logged with its traceback and not described."""
    if isinstance(error, HTTPException) and error.status_code in _ROUTING_ERRORS:
        return _ROUTING_ERRORS[error.status_code](headers=error.headers)
    known = error if isinstance(error, FieldmarkError) else InternalError()
    if isinstance(known, InternalError):
        _LOG.error("request failed", exc_info=error, extra={"fields": context_of(scope).ids()})
    return known


def problem_response(error: Exception, scope: Scope) -> Response:
    """Return the answer to a request that failed with `error`."""
    known = known_error(error, scope)
    context = context_of(scope)
    context.problem = known.code
    document = problem_document(known, **context.ids(), root_path=context.root_path)
    if re.search(r"/v2(/|$)", scope["path"]):
        document["error"] = known.detail  # where clients of the Open Inference Protocol read it
    return Response(to_json(document), known.status, known.headers or None, PROBLEM_MEDIA_TYPE)


async def answer_problem(request: Request, error: Exception) -> Response:
    """Answer a request whose endpoint failed; Starlette's exception handler."""
    return problem_response(error, request.scope)


def invalid_option(faults: Iterable[Mapping[str, Any]]) -> InvalidOption:
    """Return the error that names each bad parameter and the reason; the value sent is not repeated.

    Args:
        faults: `loc`, `type` and `ctx` of each, as pydantic describes them.
    """
    problems = []
    for fault in faults:
        reason = _REASONS.get(fault["type"], "has no valid value").format_map(fault.get("ctx", {}))
        problems.append({"name": ".".join(str(part) for part in fault["loc"]), "reason": reason})
    names = ", ".join(sorted({f"`{problem['name']}`" for problem in problems}))
    return InvalidOption(f"Not valid: {names}.", extensions={"invalid": problems})
