"""Field marks of the classes: which are distinguished, and how often each is seen on each class."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.contract.manifest import Mark as ListedMark
from model.contract.manifest import Marks as Listed
from model.contract.marks import common_values, numbered, write_table
from training.errors import DatasetError

OVERALL = "overall"
"""The part of a mark that is of the whole object, and so in no place."""
LOCATED = 0.4
"""Least entropy, nats, by which the classes' mean row of a part exceeds their own rows, for the part to be located."""


@dataclass(frozen=True)
class Mark:
    """A detail that distinguishes classes.

    Attributes:
        name: as people say it: `yellow crown`.
        part: where it is: `crown`; `overall` where it is of the whole object.
        value: what is seen there: `yellow`.
        source: as the data set writes it: `has_crown_color::yellow`, or `crown: yellow`.
    """

    name: str
    part: str
    value: str
    source: str

    @property
    def key(self) -> str:
        """Part and value as a network's config has them: `crown: yellow`."""
        return f"{self.part}: {self.value}"


@dataclass(frozen=True, eq=False)
class Marks:
    """The A marks, and what a field guide says of the K classes.

    Attributes:
        marks: all of them, in the order of the table's columns; no two have the same name.
        table: share of observers who see a mark on a class, (K, A), in [0, 1]; NaN where it is unknown.
    """

    marks: tuple[Mark, ...]
    table: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        names = Counter(mark.name for mark in self.marks)
        if doubled := next((name for name, times in names.items() if times > 1), None):
            raise DatasetError(f"two marks are named {doubled!r}")

    def located(self, between: Mapping[str, Sequence[str]] | None = None) -> npt.NDArray[np.bool_]:
        """Return whether the place of each mark's part can be learnt from the table, (A,).

        It can where the part has several of the values that most parts have, and these differ enough between the
        classes: the mean of the rows has more entropy than the rows. Eyes that are black in almost every row have none.

        Args:
            between: part → parts between which it is declared to lie; it is located where those of the table are.
        """
        from scipy.stats import entropy  # takes a second to import, and lists of commands need none

        (parts, part_of), (_, value_of) = numbered(m.part for m in self.marks), numbered(m.value for m in self.marks)
        common = np.isin(value_of, common_values(part_of, value_of))
        found = np.zeros(len(self.marks), bool)
        for part, name in enumerate(parts):
            own = np.asarray(part_of) == part
            shares = np.nan_to_num(self.table[:, own & common])
            rows = shares[shares.sum(1) > 0]
            if name != OVERALL and shares.shape[1] >= 2 and len(rows):
                rows = rows / rows.sum(1, keepdims=True)
                found[own] = entropy(rows.mean(0)) - entropy(rows, axis=1).mean() >= LOCATED
        of_part = {name: bool(found[part_of.index(part)]) for part, name in enumerate(parts)}
        for name, others in (between or {}).items():
            beside = [of_part[other] for other in others if other in of_part]
            if name in parts and beside:
                found[np.asarray(part_of) == parts.index(name)] = all(beside)
        return found

    def listed(self, between: Mapping[str, Sequence[str]] | None = None) -> Listed:
        """Return them as the manifest of a file lists them; the exporter replaces the grid with the head's.

        Args:
            between: as for `located`.
        """
        marks = tuple(
            ListedMark(name=mark.name, part=mark.part, source=mark.source, located=bool(located))
            for mark, located in zip(self.marks, self.located(between), strict=True)
        )
        return Listed(marks=marks, table=write_table(self.table), grid=(1, 1))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        return {"marks": [asdict(mark) for mark in self.marks], "table": self.table.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Marks":
        """Read what `to_dict` returned."""
        return cls(tuple(Mark(**mark) for mark in values["marks"]), np.array(values["table"], np.float64))
