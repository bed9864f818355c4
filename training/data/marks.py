"""Field marks of the classes: which are distinguished, and how often each is seen on each class."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
