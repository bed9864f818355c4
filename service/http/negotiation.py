"""What a client requests: the options in its query string, and the form of the answer in its `Accept`.

`Accept` is read as RFC 9110 has it, section 12.5.1.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, TypeVar, get_origin, get_type_hints
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from service.errors import InvalidOption, NotAcceptable
from service.http.problems import invalid_option

JSON = "application/json"
PNG = "image/png"
WEBP = "image/webp"
JPEG = "image/jpeg"
MAX_PARAMETERS = 288
"""32 options, and 256 classes of `among`."""
Options = TypeVar("Options", bound=BaseModel)


def with_options(
    endpoint: Callable[[Request, Options], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that takes the request alone and reads its second parameter, `options`, from the query.

    Clients repeat their queries, and options are frozen.
    """
    kind: type[Options] = get_type_hints(endpoint)["options"]

    @lru_cache(maxsize=64)
    def read(query: bytes) -> Options:
        return read_options(query, kind)

    @wraps(endpoint)
    async def with_options_read(request: Request) -> Response:
        return await endpoint(request, read(request.scope["query_string"]))

    return with_options_read


def read_options(query: bytes, kind: type[Options]) -> Options:
    """Return the options of a query string.

    Raises:
        InvalidOption: an unknown parameter, one that is given twice and is no list, or a value out of range.
    """
    try:
        pairs = parse_qsl(query.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError as error:
        raise InvalidOption(f"A request has at most {MAX_PARAMETERS} parameters.") from error
    values, repeated, lists = dict[str, Any](), list[str](), _lists_of(kind)
    for name, value in pairs:
        if name in lists:
            values.setdefault(name, []).append(value)
        elif name in values:
            repeated.append(name)
        else:
            values[name] = value
    if repeated:
        # The answer could not show which of the two values it is for.
        raise invalid_option({"loc": (name,), "type": "repeated"} for name in dict.fromkeys(repeated))
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise invalid_option(error.errors(include_url=False, include_input=False)) from error


@lru_cache(maxsize=16)
def _lists_of(kind: type[BaseModel]) -> frozenset[str]:
    """Return the options that take each of their values from a parameter of its own."""
    return frozenset(name for name, field in kind.model_fields.items() if get_origin(field.annotation) is list)


def accept_of(request: Request) -> str | None:
    """Return the `Accept` of a request, which may have several lines."""
    return ", ".join(request.headers.getlist("accept")) or None


def choose(accept: str | None, offers: Sequence[str], subject: str = "This") -> str:
    """Return the offer with the highest quality; among equals the first offered.

    Args:
        accept: value of the header; None or empty accepts everything.
        offers: media types, the server's favourite first.
        subject: of the error's sentence.

    Raises:
        NotAcceptable: none of the offers is accepted.
    """
    if not accept or accept == "*/*":
        return offers[0]
    ranges = _parse(accept)
    best = max(offers, key=lambda offer: _quality(offer, ranges))
    if _quality(best, ranges) <= 0:
        raise NotAcceptable(f"{subject} can be answered only as: {', '.join(offers)}.")
    return best


@lru_cache(maxsize=256)
def _parse(accept: str) -> tuple[tuple[str, float], ...]:
    """Return (range, quality) pairs; unreadable items are left out, and q is clipped to [0, 1]."""
    ranges = []
    for item in accept.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        if name.count("/") == 1:
            ranges.append((name, _weight(parameters)))
    return tuple(ranges)


def _weight(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                weight = float(parameter[2:])
            except ValueError:
                return 0.0
            return min(max(weight, 0.0), 1.0) if weight == weight else 0.0
    return 1.0


def _quality(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Return the weight of the most specific range that matches the offer; 0 where none does."""
    family = offer.partition("/")[0] + "/*"
    for wanted in (offer, family, "*/*"):
        weights = [weight for name, weight in ranges if name == wanted]
        if weights:
            return max(weights)
    return 0.0
