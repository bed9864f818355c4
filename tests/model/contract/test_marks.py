"""Field marks without torch: the table as a file keeps it, and how far a mark lies where the decision looked."""

import base64

import numpy as np
import pytest
from pydantic import ValidationError

from model.contract.manifest import Manifest, Marks
from model.contract.marks import evidence, read_table, write_table
from tests.model.networks import CLASSES, make_manifest

NAN = float("nan")


def test_a_table_survives_the_manifest() -> None:
    """What was unknown stays unknown, what float16 can hold is exact, and the rest is near."""
    table = np.array([[0.0, 1.0, NAN], [0.25, 1 / 3, 0.8]])
    found = read_table(write_table(table), 2, 3)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(table), np.isnan(found))
    np.testing.assert_array_equal(table[:, [0]], found[:, [0]])
    np.testing.assert_allclose(found, table, atol=3e-4)
    np.testing.assert_array_equal(found, read_table(write_table(found), 2, 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not base64!", "cannot be read"),
        (base64.b64encode(b"odd").decode(), "cannot be read"),
        (write_table(np.zeros((3, 2))), "holds 6 shares, not 2 × 2"),
        (write_table(np.array([[0, 1], [0, 1.5]])), "outside 0 to 1"),
        (write_table(np.array([[0, 1], [0, -0.5]])), "outside 0 to 1"),
        (write_table(np.array([[0, 1], [0, np.inf]])), "outside 0 to 1"),
    ],
)
def test_a_table_that_is_none_is_refused(text: str, message: str) -> None:
    """Broken text, another number of shares, and shares that are none are named."""
    with pytest.raises(ValueError, match=message):
        read_table(text, 2, 2)


def _marks(*names: str, num_classes: int = CLASSES) -> Marks:
    listed = tuple({"name": name, "part": "bill"} for name in names)
    table = write_table(np.zeros((num_classes, len(names))))
    return Marks.model_validate({"marks": listed, "table": table, "grid": (4, 4)})


def test_a_manifest_with_marks_survives_the_file() -> None:
    """Its marks come back in their order, with their table."""
    manifest = make_manifest(marks=_marks("red bill", "blue bill"))
    assert Manifest.from_metadata(manifest.to_metadata()) == manifest


def test_a_table_of_another_size_is_refused() -> None:
    """The table has a row for every class of the manifest."""
    with pytest.raises(ValidationError, match="holds 3 shares, not 5 × 1"):
        make_manifest(marks=_marks("red bill", num_classes=3))


@pytest.mark.parametrize(
    ("names", "message"),
    [(("red bill", "red bill"), "the same name"), (("",), "empty or has unprintable"), (("red\nbill",), "unprintable")],
)
def test_marks_without_names_of_their_own_are_refused(names: tuple[str, ...], message: str) -> None:
    """People and requests refer to marks by name."""
    with pytest.raises(ValidationError, match=message):
        _marks(*names)


def test_evidence_is_one_by_chance() -> None:
    """An even class map lies anywhere as much as chance puts it there."""
    mark_map = np.zeros((4, 4))
    mark_map[1, 1:3] = (0.4, 0.6)
    assert evidence(np.ones((4, 4)), mark_map) == pytest.approx(1)


def test_evidence_counts_what_lies_above_half_the_maximum() -> None:
    """All of a class's evidence in one of sixteen cells: sixteen times chance there, nothing elsewhere."""
    class_map, mark_map = np.zeros((4, 4)), np.full((4, 4), 0.1)
    class_map[2, 3] = 5
    mark_map[2, 3] = 1
    assert evidence(class_map, mark_map) == pytest.approx(16)
    mark_map[2, 3], mark_map[0, 0] = 0.5, 1
    assert evidence(class_map, mark_map) == pytest.approx(0)


@pytest.mark.parametrize("empty", [np.zeros((2, 2)), np.full((2, 2), NAN)])
def test_without_a_map_there_is_no_evidence(empty: np.ndarray) -> None:  # type: ignore[type-arg]
    """An empty map, or the NaN of a mark that does not exist, is no figure rather than a wrong one."""
    assert evidence(empty, np.ones((2, 2))) is None
    assert evidence(np.ones((2, 2)), empty) is None
