"""The taxa of a model's classes: the lowest that several share, and what a manifest cannot hold."""

from typing import Any

import pytest
from pydantic import ValidationError

from model.contract.manifest import Manifest
from model.contract.taxonomy import Taxon, Taxonomy
from tests.service.tiny_model import tiny_manifest

ROWS = (("Larus", "Laridae"), ("Larus", "Laridae"), ("Sterna", "Laridae"), ("Alca", "Alcidae"))
TAXA = Taxonomy(ranks=("genus", "family"), rows=ROWS)


@pytest.mark.parametrize(
    ("classes", "taxon"),
    [
        ([2], Taxon("class", "Sterna paradisaea")),
        ([0, 1], Taxon("genus", "Larus")),
        ([1, 2, 0], Taxon("family", "Laridae")),
        ([0, 3], None),
    ],
)
def test_the_lowest_common_taxon(classes: list[int], taxon: Taxon | None) -> None:
    """A class for itself, else the narrowest rank that is alike; none where the widest differs."""
    assert taxon == TAXA.common(classes, ("Larus canus", "Larus fuscus", "Sterna paradisaea", "Alca torda"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": ("genus", "genus")}, "two ranks"),
        ({"ranks": ("class", "family")}, "two ranks"),
        ({"ranks": ("genus",)}, "another number of taxa"),
        ({"ranks": ("genus", "")}, "empty or has unprintable"),
        ({"rows": (("Larus", "La\nridae"),)}, "empty or has unprintable"),
    ],
)
def test_damaged_taxonomies_are_refused(changes: dict[str, Any], message: str) -> None:
    """Ranks and taxa have names that can be shown, and each class has all of them."""
    with pytest.raises(ValidationError, match=message):
        Taxonomy(**{"ranks": ("genus", "family"), "rows": ROWS, **changes})


def test_a_manifest_keeps_it_for_its_classes_alone() -> None:
    """Written and read again; a row for each label."""
    made = tiny_manifest(taxonomy=TAXA)
    assert made == Manifest.from_metadata(made.to_metadata())
    with pytest.raises(ValidationError, match="another number of classes"):
        tiny_manifest(taxonomy=Taxonomy(ranks=TAXA.ranks, rows=ROWS[:3]))
