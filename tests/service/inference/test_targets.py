"""How a request names a class, a mark, and a layer."""

import pytest

from model.contract.manifest import Layer
from service.errors import InvalidOption, NoMarks, UnknownClass, UnknownMark
from service.inference.targets import resolve_layer, resolve_mark, resolve_target
from tests.service.tiny_model import marked_manifest, tiny_manifest

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
    """Labels match exactly, then regardless of case where one fits; classes count from 0, ranks from 1."""
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
    """An ambiguous or unknown label is refused with the most similar labels."""
    with pytest.raises(UnknownClass) as caught:
        resolve_target(text, BIRDS)
    assert nearest == caught.value.extensions["nearest"]


def test_a_label_that_looks_like_a_code() -> None:
    """A label takes precedence over a code."""
    assert 1 == resolve_target("class:0", tiny_manifest(labels=("a", "class:0", "b", "c")))


def layers(*names: str) -> tuple[Layer, ...]:
    """Return layers of these names."""
    return tuple(Layer(name=name, channels=3, grid=(8, 8)) for name in names)


STAGES = tiny_manifest(layers=layers("features.18", "features.6", "stem"))
SEQUENCE = tiny_manifest(layers=layers("7", "1", "0"))


@pytest.mark.parametrize(
    ("text", "index"), [(None, 0), ("features.18", 0), ("features.6", 1), ("stem", 2), ("0", 0), ("2", 2), ("02", 2)]
)
def test_known_layers(text: str | None, index: int) -> None:
    """A layer is its name or its index; without either it is the last stage."""
    assert index == resolve_layer(text, STAGES)


@pytest.mark.parametrize(("text", "index"), [(None, 0), ("7", 0), ("1", 1), ("0", 2), ("2", 2)])
def test_a_layer_whose_name_is_a_number(text: str | None, index: int) -> None:
    """A name takes precedence over an index; the last stage is the default whatever the names are."""
    assert index == resolve_layer(text, SEQUENCE)


@pytest.mark.parametrize(
    "text", ["", "3", "-1", "+1", " 1", "1.0", "1_0", "٢", "９" * 9, "9" * 200, "Stem", "features", "features.6 "]
)
def test_unknown_layers_name_the_known(text: str) -> None:
    """Anything else is refused with the names of the layers."""
    with pytest.raises(InvalidOption, match=r"`features\.18`, `features\.6`, `stem`"):
        resolve_layer(text, STAGES)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("red crown", 0), ("RED  Crown", 0), ("red_wing", 3), ("ЧЁРНЫЙ глаз", 4), ("mark:2", 2), ("rank:1", -1),
        ("rank:5", -5),
    ],
)  # fmt: skip
def test_known_marks(text: str, code: int) -> None:
    """A mark is its name, as a class is its label, its index, or its rank."""
    assert code == resolve_mark(text, marked_manifest())


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("red crwn", ["red crown"]), ("zzzz", []), ("class:1", []), ("mark:5", []), ("mark:-1", []),
        ("mark:", []), ("mark:١", []), ("rank:0", []), ("rank:6", []), ("", []),
    ],
)  # fmt: skip
def test_unknown_marks_name_the_nearest(text: str, nearest: list[str]) -> None:
    """What names no mark of the model is refused with similar names; ranks end with the marks."""
    with pytest.raises(UnknownMark) as caught:
        resolve_mark(text, marked_manifest())
    assert nearest == caught.value.extensions["nearest"][:1]


def test_a_model_without_marks() -> None:
    """Of a model without marks none is known, and the error says so."""
    with pytest.raises(NoMarks, match="tiny has no field marks"):
        resolve_mark("rank:1", tiny_manifest())
