"""The set of classes that holds the true one as often as requested, and the lowest taxon of them all."""

from model.contract.manifest import Manifest
from model.contract.sets import Sets
from model.contract.taxonomy import Taxon
from service.errors import NoSets


def sets_of(manifest: Manifest) -> Sets:
    """Return how the sets of a model are made.

    Raises:
        NoSets: it has no calibration for them.
    """
    if manifest.sets is None:
        raise NoSets(f"The model {manifest.name} has no calibration for sets.")
    return manifest.sets


def taxon_of(classes: list[int], manifest: Manifest) -> Taxon | None:
    """Return the lowest taxon that holds all classes of a set; None where no rank has one.

    Args:
        classes: of the set.
        manifest: of a model with a taxonomy.
    """
    return None if manifest.taxonomy is None else manifest.taxonomy.common(classes, manifest.labels)
