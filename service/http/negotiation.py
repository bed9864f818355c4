"""What a client requests: the options in its query string, and the form of the answer in its `Accept`.

`Accept` is read as RFC 9110 has it, section 12.5.1.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache, wraps
from typing import TypeVar, get_type_hints
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
MAX_PARAMETERS = 32
Options = TypeVar("Options", bound=BaseModel)


def with_options(
    endpoint: Callable[[Request, Options], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that takes the request alone and reads its second parameter, `options`, from the query."""
    kind = get_type_hints(endpoint)["options"]

    @wraps(endpoint)
    async def with_options_read(request: Request) -> Response:
        return await endpoint(request, read_options(request.scope["query_string"], kind))

    return with_options_read


def read_options(query: bytes, kind: type[Options]) -> Options:
    """Return the options of a query string.

    Raises:
        InvalidOption: an unknown parameter, one that is given twice, or a value out of range.
    """
    try:
        pairs = parse_qsl(query.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError as error:
        raise InvalidOption(f"A request has at most {MAX_PARAMETERS} parameters.") from error
    values = dict(pairs)
    if len(values) < len(pairs):
        # The answer could not show which of the two values it is for.
        counts = Counter(name for name, _ in pairs)
        raise invalid_option({"loc": (name,), "type": "repeated"} for name, count in counts.items() if count > 1)
    try:
        return kind.model_validate_strings(values)
    except ValidationError as error:
        raise invalid_option(error.errors(include_url=False, include_input=False)) from error


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
