"""Query string → options of a route.

FastAPI could do this, at twice the price of all else that happens to a request; most requests have no query string.
"""

from functools import cache
from typing import TypeVar, cast
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError
from starlette.types import Scope

from service.problems import invalid_option

MAX_PARAMETERS = 32
Options = TypeVar("Options", bound=BaseModel)


def read_options(scope: Scope, kind: type[Options]) -> Options:
    """Return the options of a request; of a parameter sent twice the last counts.

    Raises:
        InvalidOption: an unknown parameter, or a value out of range.
    """
    query: bytes = scope["query_string"]
    if not query:
        return cast(Options, _defaults(kind))
    try:
        pairs = parse_qsl(query.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
        return kind.model_validate_strings(dict(pairs))
    except ValidationError as error:
        items = error.errors(include_url=False, include_input=False)
        raise invalid_option((item["loc"], item) for item in items) from error
    except ValueError as error:
        raise invalid_option([(("query",), {"type": "too_many"})]) from error


@cache
def _defaults(kind: type[BaseModel]) -> BaseModel:
    return kind()
