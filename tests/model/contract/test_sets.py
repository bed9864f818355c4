"""Sets of classes: thresholds of any coverage, groups of classes, and what a manifest cannot hold."""

import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from model.contract.manifest import Manifest, ManifestError
from model.contract.sets import SetGroup, Sets, needed_photos, write_missed
from tests.service.tiny_model import tiny_manifest

MISSED = write_missed(np.array([0.25, 0.5, 0.125]))
"""Of three photos, in any order."""


@pytest.mark.parametrize(
    ("coverage", "threshold"),
    [(0.001, math.inf), (0.6, math.inf), (0.61, 0.5), (0.7, 0.5), (0.8, 0.25), (0.9, 0.125), (0.91, 0.0), (0.999, 0.0)],
)
def test_the_threshold_of_any_coverage(coverage: float, threshold: float) -> None:
    """Nine photos, six of them named rightly: ten times the coverage, rounded up, must be covered."""
    assert threshold == SetGroup(num_photos=9, missed=MISSED).threshold(coverage)


def test_rounding_asks_for_no_further_photo() -> None:
    """0.93 · 100 is more than 93 in binary."""
    assert [93, 90, 1, 100] == [needed_photos(99, coverage) for coverage in (0.93, 0.9, 0.0001, 0.9999)]


def test_a_set_is_never_empty_and_in_order() -> None:
    """The likeliest class is in every set, however unlikely; equals stand in the order of their index."""
    sets = Sets(groups=(SetGroup(num_photos=9, missed=MISSED),))
    assert [2] == sets.of([0.2, 0.2, 0.4, 0.2], 0.7)
    assert [1] == sets.of([0.0, 0.5, 0.5], 0.5)
    assert [1, 2] == sets.of([0.0, 0.5, 0.5], 0.7)
    assert [1, 0, 2] == sets.of([0.25, 0.5, 0.25], 0.8)
    assert [1, 0, 2] == sets.of([0.0, 1.0, 0.0], 0.99)


def test_classes_with_a_group_have_its_threshold() -> None:
    """The others have that of the rest, wherever it stands in the list."""
    own, rest = SetGroup(classes=(1,), num_photos=9, missed=MISSED), SetGroup(num_photos=4)
    for groups in ((own, rest), (rest, own)):
        assert [math.inf, 0.25, math.inf] == Sets(groups=groups).thresholds(0.8, 3)
        assert 13 == Sets(groups=groups).num_photos


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"num_photos": 2, "missed": MISSED}, "more missed photos than photos"),
        ({"num_photos": 9, "missed": "AAA"}, "cannot be read"),
        ({"num_photos": 9, "missed": "AAAA"}, "cannot be read"),
        ({"num_photos": 9, "missed": write_missed(np.array([1.5]))}, "not from 1 down to 0"),
        ({"num_photos": 9, "missed": write_missed(np.array([np.nan]))}, "not from 1 down to 0"),
        ({"num_photos": 0}, "greater than or equal to 1"),
    ],
)
def test_a_damaged_group_is_refused(group: dict[str, Any], message: str) -> None:
    """Text that is no probabilities, or that no photos can have."""
    with pytest.raises(ValidationError, match=message):
        SetGroup(**group)


@pytest.mark.parametrize("classes", [[(0, 1, 2)], [(0, 1, 2, 3, 4)], [(0, 1), (1, 2, 3)], [(), ()], [(-1,), ()]])
def test_groups_fit_the_classes_of_the_model(classes: list[tuple[int, ...]]) -> None:
    """Every class of four is in one group; a file of others is refused, by name."""
    groups = tuple({"classes": each, "num_photos": 9} for each in classes)
    metadata = tiny_manifest().to_metadata()
    (key,) = metadata
    made = metadata[key].replace('"sets":null', '"sets":' + Sets(groups=groups).model_dump_json())
    with pytest.raises(ManifestError, match=r"a class is in"):
        Manifest.from_metadata({key: made})


def test_a_manifest_keeps_them() -> None:
    """Written and read again."""
    made = tiny_manifest(
        sets=Sets(groups=(SetGroup(classes=(3,), num_photos=9, missed=MISSED), SetGroup(num_photos=1)))
    )
    assert made == Manifest.from_metadata(made.to_metadata())
