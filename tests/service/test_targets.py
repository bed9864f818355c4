"""How a request names a class."""

import pytest

from service.errors import UnknownClass
from service.targets import resolve_target
from tests.service.tiny_model import tiny_manifest

BIRDS = tiny_manifest(labels=("Black footed Albatross", "Least Auklet", "least auklet", "Blå fugl"))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Black footed Albatross", 0),
        ("black FOOTED albatross", 0),
        ("Black_footed_Albatross", 0),
        ("  Black   footed Albatross ", 0),
        ("Least Auklet", 1),
        ("least auklet", 2),
        ("BLÅ FUGL", 3),
        ("class:0", 0),
        ("class:3", 3),
        ("rank:1", -1),
        ("rank:4", -4),
    ],
)
def test_known_classes(text: str, code: int) -> None:
    """Labels count exactly, then regardless of case where one fits; classes from 0, ranks from 1."""
    assert code == resolve_target(text, BIRDS)


@pytest.mark.parametrize(
    "text", ["class:4", "class:-1", "class:", "class:1.0", "rank:0", "rank:5", "rank:x", "class:١", ""]
)
def test_unknown_codes(text: str) -> None:
    """Codes outside the model are refused."""
    with pytest.raises(UnknownClass):
        resolve_target(text, BIRDS)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("LEAST AUKLET", ["Least Auklet", "least auklet"]),
        ("Blak foted Albatros", ["Black footed Albatross"]),
        ("zzzz", []),
    ],
)
def test_unknown_labels_name_the_nearest(text: str, nearest: list[str]) -> None:
    """An ambiguous or unknown label is answered with those that are like it."""
    with pytest.raises(UnknownClass) as caught:
        resolve_target(text, BIRDS)
    assert nearest == caught.value.extensions["nearest"]


def test_a_label_that_looks_like_a_code() -> None:
    """A label comes before a code."""
    assert 1 == resolve_target("class:0", tiny_manifest(labels=("a", "class:0", "b", "c")))
