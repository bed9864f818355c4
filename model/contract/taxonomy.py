"""The taxa of a model's classes, and the lowest one that several classes share. Free of torch."""

from collections.abc import Sequence
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.contract.labels import label_fault

CLASS = "class"
"""Rank of a class itself, below all others."""


class Taxon(NamedTuple):
    """A group of classes.

    Attributes:
        rank: `genus`, or another of the taxonomy; `class` for a single class.
        name: `Larus`.
    """

    rank: str
    name: str


class Taxonomy(BaseModel):
    """To which taxa the classes belong.

    Attributes:
        ranks: from the narrowest to the widest: genus, family, order.
        rows: of each of the K classes, its taxa in the order of the ranks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ranks: tuple[str, ...] = Field(min_length=1)
    rows: tuple[tuple[str, ...], ...]

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if len({CLASS, *self.ranks}) != len(self.ranks) + 1:
            raise ValueError("two ranks of the taxonomy have the same name")
        if any(len(row) != len(self.ranks) for row in self.rows):
            raise ValueError("a class has another number of taxa than there are ranks")
        if any(label_fault(text) for row in (self.ranks, *self.rows) for text in row):
            raise ValueError("a rank or a taxon is empty or has unprintable characters")
        return self

    def common(self, classes: Sequence[int], labels: Sequence[str]) -> Taxon | None:
        """Return the lowest taxon that holds all of some classes; None where the widest rank differs.

        Args:
            classes: one or more.
            labels: of the K classes.
        """
        first, *others = classes
        if not others:
            return Taxon(CLASS, labels[first])
        for place, (rank, name) in enumerate(zip(self.ranks, self.rows[first], strict=True)):
            if all(self.rows[other][place] == name for other in others):
                return Taxon(rank, name)
        return None
