"""Query strings → options; `Accept` headers → the form of the answer."""

import pytest

from service.errors import InvalidOption, NotAcceptable
from service.http.api.schemas import ExplainOptions
from service.http.negotiation import JPEG, JSON, MAX_PARAMETERS, PNG, WEBP, choose, read_options

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
    """Where nothing fits, the error lists the offers."""
    with pytest.raises(NotAcceptable, match="application/json"):
        choose(accept, OFFERS)


def read(query: str) -> ExplainOptions:
    """Return the options of a query string."""
    return read_options(query.encode(), ExplainOptions)


def test_options_of_a_query() -> None:
    """Values are unquoted and converted; what is absent has its default."""
    assert ExplainOptions() == read("")
    assert ExplainOptions(target="Blå fugl", top_k=3, values=True) == read("target=Bl%C3%A5+fugl&top_k=3&values=true")


@pytest.mark.parametrize(
    ("query", "invalid"),
    [
        ("target=rank:1&target=rank:2", {"target": "is given more than once"}),
        ("versus=rank:2&top_k=1&versus=rank:3&top_k=1", dict.fromkeys(("versus", "top_k"), "is given more than once")),
        ("targets=rank:1", {"targets": "is not a parameter of this address"}),
        ("=", {"": "is not a parameter of this address"}),
        ("model=&version=", dict.fromkeys(("model", "version"), "must not be empty")),
        ("top_k=&size=&opacity=", {"top_k": "must be a whole number", "size": "must be a whole number",
                                   "opacity": "must be a number"}),
        ("top_k=%D9%A3&size=%EF%BC%96%EF%BC%94", dict.fromkeys(("top_k", "size"), "must be a whole number")),
        ("top_k=0&size=-16", {"top_k": "must be at least 1", "size": "must be at least 16"}),
        ("top_k=" + "9" * 30, {"top_k": "must be at most 1000"}),
        ("top_k=" + "9" * 5000, {"top_k": "must be a smaller number"}),
        ("threshold=nan&opacity=1e999", dict.fromkeys(("threshold", "opacity"), "must be a finite number")),
        ("target=" + "x" * 201, {"target": "must have at most 200 characters"}),
    ],
)  # fmt: skip
def test_bad_parameters_are_named(query: str, invalid: dict[str, str]) -> None:
    """Each bad parameter is named with the reason; of two values neither is used."""
    with pytest.raises(InvalidOption) as caught:
        read(query)
    assert invalid == {one["name"]: one["reason"] for one in caught.value.extensions["invalid"]}


def test_a_list_takes_a_parameter_for_each_value() -> None:
    """Labels may hold commas; the other options are still given once."""
    assert ["A, B", "", "A, B"] == read("among=A,%20B&top_k=1&among=&among=A,+B").among
    with pytest.raises(InvalidOption) as caught:
        read("among=A&top_k=1&among=A&top_k=1&" + "&".join(["size=16"] * 3))
    assert [("top_k", "is given more than once"), ("size", "is given more than once")] == [
        (one["name"], one["reason"]) for one in caught.value.extensions["invalid"]
    ]


def test_too_many_parameters() -> None:
    """A query with more parameters than any address has is refused."""
    with pytest.raises(InvalidOption, match=f"at most {MAX_PARAMETERS}"):
        read("&".join(f"a{number}=1" for number in range(MAX_PARAMETERS + 1)))
