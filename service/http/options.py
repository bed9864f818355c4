"""Query string → options of a route.

FastAPI could do this, at twice the price of all else that happens to a request; most requests have no query string.
"""

from collections import Counter
from functools import cache
from typing import TypeVar, cast
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError
from starlette.types import Scope

from service.errors import InvalidOption
from service.http.problems import invalid_option

MAX_PARAMETERS = 32
Options = TypeVar("Options", bound=BaseModel)


def read_options(scope: Scope, kind: type[Options]) -> Options:
    """Return the options of a request.

    Raises:
        InvalidOption: an unknown parameter, one that is given twice, or a value out of range.
    """
    query: bytes = scope["query_string"]
    if not query:
        return cast(Options, _defaults(kind))
    try:
        pairs = parse_qsl(query.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError as error:
        raise InvalidOption(f"A request has at most {MAX_PARAMETERS} parameters.") from error
    values = dict(pairs)
    if len(values) < len(pairs):
        # One of them would be answered and the others not, which nobody could tell from the answer.
        counts = Counter(name for name, _ in pairs)
        raise invalid_option(((name,), {"type": "repeated"}) for name, count in counts.items() if count > 1)
    try:
        return kind.model_validate_strings(values)
    except ValidationError as error:
        items = error.errors(include_url=False, include_input=False)
        raise invalid_option((item["loc"], item) for item in items) from error


@cache
def _defaults(kind: type[BaseModel]) -> BaseModel:
    return kind()
