"""Decisions of a model with sets, and of one without."""

import pytest

from model.contract.sets import SetGroup, Sets
from service.decision.sets import sets_of, taxon_of
from service.errors import NoSets
from tests.model.contract.test_taxonomy import TAXA
from tests.service.tiny_model import LABELS, tiny_manifest


def test_a_model_without_calibration_says_so() -> None:
    """One with sets gives them; without a taxonomy nothing is common."""
    sets = Sets(groups=(SetGroup(num_photos=9),))
    assert sets == sets_of(tiny_manifest(sets=sets))
    with pytest.raises(NoSets, match="tiny has no calibration for sets"):
        sets_of(tiny_manifest())
    assert None is taxon_of([0], tiny_manifest())
    assert ("class", LABELS[1]) == taxon_of([1], tiny_manifest(taxonomy=TAXA))
    assert None is taxon_of([0, 3], tiny_manifest(taxonomy=TAXA))
