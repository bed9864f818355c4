"""One answer for several photos of one individual: the product of what each photo says, as experts (Hinton 2002).

Photos that show the same bird in the same way err together, so that the plain product is too sure. Of n photos each
counts as n^−dependence of one: 0 is the product of independent photos, 1 their geometric mean. The model's file has the
number that was fitted on its training photos; without one the mean is taken, the more cautious.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from model.contract.manifest import Manifest
from service.decision.beliefs import Belief, log_probabilities, normalised
from service.inference.predictor import Prediction

CAUTIOUS = 1.0
"""Dependence of photos where the model's file names none."""


def together(photos: Sequence[Prediction], belief: Belief | None) -> Prediction:
    """Return a prediction with the probabilities that the photos of one individual give together; else of the first.

    Bit for bit the same whatever the order of the photos: sums over photos are exact.

    Args:
        photos: of one model, at least one.
        belief: before the photos were seen; it counts once, however many they are.
    """
    manifest = photos[0].served.manifest
    each = [log_probabilities(photo.logits, manifest.temperature).tolist() for photo in photos]
    scores = len(photos) ** -dependence(manifest) * np.array(
        [math.fsum(of_class) for of_class in zip(*each, strict=True)]
    )
    if belief is not None:
        scores += belief.log_weights
    return replace(photos[0], probabilities=normalised(scores), ruled_out=0 if belief is None else belief.ruled_out)


def dependence(manifest: Manifest) -> float:
    """Return how dependent a model's photos of one individual are, 0 to 1."""
    return CAUTIOUS if manifest.individual is None else manifest.individual.dependence
