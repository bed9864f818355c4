"""Query strings → options."""

import pytest

from service.errors import InvalidOption
from service.http.api.schemas import ExplainOptions
from service.http.options import MAX_PARAMETERS, read_options


def read(query: str) -> ExplainOptions:
    """Return the options of a query string."""
    return read_options({"query_string": query.encode()}, ExplainOptions)


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
    """Each parameter at fault is named with the reason; none of two values is taken for the one that was meant."""
    with pytest.raises(InvalidOption) as caught:
        read(query)
    assert invalid == {one["name"]: one["reason"] for one in caught.value.extensions["invalid"]}


def test_endless_parameters() -> None:
    """A query is not read beyond a number of parameters that no address has."""
    with pytest.raises(InvalidOption, match=f"at most {MAX_PARAMETERS}"):
        read("&".join(f"a{number}=1" for number in range(MAX_PARAMETERS + 1)))
