"""Which form an `Accept` header gets."""

import pytest

from service.errors import NotAcceptable
from service.http.negotiation import JPEG, JSON, PNG, WEBP, choose

OFFERS = [PNG, WEBP, JPEG, JSON]


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, PNG),
        ("", PNG),
        ("*/*", PNG),
        ("image/*", PNG),
        ("application/*", JSON),
        ("image/webp,image/png", PNG),
        ("image/webp,image/png;q=0.9", WEBP),
        ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", PNG),
        ("text/html,application/xhtml+xml,image/avif,image/webp,*/*;q=0.8", WEBP),
        ("image/*;q=0.5, image/png;q=0.1", WEBP),
        ("image/png;q=0, */*", WEBP),
        ("IMAGE/JPEG", JPEG),
        ("image/jpeg;q=nan, application/json;q=0.2", JSON),
        ("image/jpeg;q=7", JPEG),
        ("nonsense, application/json", JSON),
    ],
)
def test_preference(accept: str | None, chosen: str) -> None:
    """The highest quality wins, the most specific range counts, and among equals the server's order."""
    assert chosen == choose(accept, OFFERS)


@pytest.mark.parametrize("accept", ["text/html", "*/*;q=0", "image/gif", "nonsense", ",", "image/png;q=0"])
def test_nothing_fits(accept: str) -> None:
    """Where nothing fits the offers are named."""
    with pytest.raises(NotAcceptable, match="application/json"):
        choose(accept, OFFERS)
