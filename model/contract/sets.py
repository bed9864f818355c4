"""Sets of classes that hold the true one as often as requested: split conformal prediction. Free of torch.

A set is the likeliest class and every class that is at least as likely as a threshold: LAC, whose sets are the
smallest on average, in the nested form that is never empty. A calibration photo whose likeliest class is the true one
is covered at any threshold; of the others the probability of the true class is kept: enough for any coverage.

Source: Sadinle, Lei & Wasserman 2019, "Least ambiguous set-valued classifiers with bounded error levels" (LAC);
Gupta, Kuchibhotla & Ramdas 2022, "Nested conformal prediction", arXiv:1910.10562; Vovk 2012, "Conditional validity of
inductive conformal predictors", arXiv:1209.2673 (groups of classes, and the coverage to expect).
"""

import base64
import binascii
import math
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

_STORED = np.dtype("<f4")
_ROUNDING = 1e-9
"""0.93 · 100 is 93.00000000000001 in binary, and 93 photos are enough."""


class SetGroup(BaseModel):
    """Classes whose sets are calibrated on their own photos.

    Attributes:
        classes: of the group; empty: all that no other group has.
        num_photos: it is calibrated on.
        missed: of those whose likeliest class is a wrong one, the probability of the true one, likeliest first, base64
            of little-endian float32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[int, ...] = ()
    num_photos: int = Field(ge=1)
    missed: str = ""

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        missed = self.probabilities
        if len(missed) > self.num_photos:
            raise ValueError("a group of sets has more missed photos than photos")
        if any(not 0 <= value <= 1 for value in missed) or missed != sorted(missed, reverse=True):
            raise ValueError("the probabilities of a group of sets are not from 1 down to 0")
        return self

    @cached_property
    def probabilities(self) -> list[float]:
        """Of `missed`."""
        try:
            return np.frombuffer(base64.b64decode(self.missed, validate=True), _STORED).tolist()  # type: ignore[no-any-return]
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"the probabilities of a group of sets cannot be read: {error}") from error

    def threshold(self, coverage: float) -> float:
        """Return the least probability of a class in the set, beside the likeliest one.

        Infinite where the likeliest class alone is enough; 0, every class, where the photos are too few for less.
        """
        needed = needed_photos(self.num_photos, coverage)
        beyond = needed - (self.num_photos - len(self.probabilities))
        if beyond <= 0:
            return math.inf
        return self.probabilities[beyond - 1] if needed <= self.num_photos else 0.0


class Sets(BaseModel):
    """How the sets of a model are made.

    Attributes:
        method: of the score.
        groups: of classes, each calibrated on its own; one for all where no class has enough photos of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["lac"] = "lac"
    groups: tuple[SetGroup, ...] = Field(min_length=1)

    @property
    def num_photos(self) -> int:
        """Photos of all groups."""
        return sum(group.num_photos for group in self.groups)

    def check(self, num_classes: int) -> None:
        """Raise unless every class of a model is in one group.

        Raises:
            ValueError: it is in none or in several, or there is no such class.
        """
        named = [index for group in self.groups for index in group.classes]
        rest = sum(not group.classes for group in self.groups)
        if len(set(named)) != len(named) or rest > 1 or any(not 0 <= index < num_classes for index in named):
            raise ValueError("a class is in two groups of sets, or is none of the model's")
        if not rest and len(named) != num_classes:
            raise ValueError("a class is in no group of sets")

    def thresholds(self, coverage: float, num_classes: int) -> list[float]:
        """Return the threshold of each class, K of them.

        Args:
            coverage: share of photos whose set holds their class, between 0 and 1.
            num_classes: K.
        """
        found = [math.nan] * num_classes
        for group in sorted(self.groups, key=lambda group: bool(group.classes)):
            threshold = group.threshold(coverage)
            for index in group.classes or range(num_classes):
                found[index] = threshold
        return found

    def of(self, probabilities: list[float], coverage: float) -> list[int]:
        """Return the classes of a photo's set, the likeliest first; among equals the lower index.

        In plain Python, as it is called for every photo of the service.

        Args:
            probabilities: calibrated, of the K classes.
            coverage: share of photos whose set holds their class, between 0 and 1.
        """
        thresholds = self.thresholds(coverage, len(probabilities))
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        chosen = [k for k, p in enumerate(probabilities) if p >= thresholds[k] or k == best]
        return sorted(chosen, key=probabilities.__getitem__, reverse=True)


def needed_photos(num_photos: int, coverage: float) -> int:
    """Return how many calibration photos must be covered, so that so large a share of others is: ⌈(n + 1)·coverage⌉."""
    return math.ceil((num_photos + 1) * coverage - _ROUNDING)


def write_missed(probabilities: npt.NDArray[np.floating[Any]]) -> str:
    """Return the probabilities of a group, (n,), as the manifest keeps them."""
    return base64.b64encode(np.sort(probabilities)[::-1].astype(_STORED).tobytes()).decode("ascii")
