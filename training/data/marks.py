"""Field marks of the classes: which are distinguished, and how often each is seen on each class."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.contract.manifest import Mark as ListedMark
from model.contract.manifest import Marks as Listed
from model.contract.marks import write_table
from training.errors import DatasetError


@dataclass(frozen=True)
class Mark:
    """A detail by which classes are told apart.

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
        names = [mark.name for mark in self.marks]
        if doubled := next((name for name in names if names.count(name) > 1), None):
            raise DatasetError(f"two marks are named {doubled!r}")

    def listed(self) -> Listed:
        """Return them as the manifest of a file lists them; the exporter replaces the grid with the head's."""
        marks = tuple(ListedMark(name=mark.name, part=mark.part, source=mark.source) for mark in self.marks)
        return Listed(marks=marks, table=write_table(self.table), grid=(1, 1))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        return {"marks": [asdict(mark) for mark in self.marks], "table": self.table.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Marks":
        """Read what `to_dict` returned."""
        return cls(tuple(Mark(**mark) for mark in values["marks"]), np.array(values["table"], np.float64))
