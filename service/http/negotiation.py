"""Which of the forms on offer a client's `Accept` prefers (RFC 9110, section 12.5.1)."""

from collections.abc import Sequence
from functools import lru_cache

from service.errors import NotAcceptable

JSON = "application/json"
PNG = "image/png"
WEBP = "image/webp"
JPEG = "image/jpeg"


def choose(accept: str | None, offers: Sequence[str]) -> str:
    """Return the offer with the highest quality; among equals the first offered.

    Args:
        accept: value of the header; None or empty accepts everything.
        offers: media types, the server's favourite first.

    Raises:
        NotAcceptable: none of the offers is accepted.
    """
    if not accept or accept == "*/*":
        return offers[0]
    ranges = _parse(accept)
    best = max(offers, key=lambda offer: _quality(offer, ranges))
    if _quality(best, ranges) <= 0:
        raise NotAcceptable(f"This can be answered as: {', '.join(offers)}.")
    return best


@lru_cache(maxsize=256)
def _parse(accept: str) -> tuple[tuple[str, float], ...]:
    """Return (range, quality) pairs; what cannot be read is left out, and q is clipped to [0, 1]."""
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
    """Return the weight of the most specific range that holds the offer; 0 where none does."""
    family = offer.partition("/")[0] + "/*"
    for wanted in (offer, family, "*/*"):
        weights = [weight for name, weight in ranges if name == wanted]
        if weights:
            return max(weights)
    return 0.0
