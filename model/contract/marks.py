"""Field marks: names, the table class × mark, and how far a mark lies where the decision looked. Free of torch."""

import base64
import binascii
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
SEPARATOR = ": "
"""Between the part and the value in the name of a mark."""
_STORED = np.dtype("<f2")


def write_table(table: Floats) -> str:
    """Return a table of shares, (K, A), as the manifest keeps it: base64 of float16 in little-endian rows."""
    return base64.b64encode(table.astype(_STORED).tobytes()).decode("ascii")


def read_table(text: str, num_classes: int, num_marks: int) -> npt.NDArray[np.float32]:
    """Return the table of shares in a manifest, (K, A), NaN where unknown.

    Raises:
        ValueError: not base64, another size, or a share outside [0, 1].
    """
    try:
        stored = np.frombuffer(base64.b64decode(text, validate=True), dtype=_STORED)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"the table of marks cannot be read: {error}") from error
    if stored.size != num_classes * num_marks:
        raise ValueError(f"the table of marks holds {stored.size} shares, not {num_classes} × {num_marks}")
    table = stored.astype(np.float32).reshape(num_classes, num_marks)
    if not np.all(np.isnan(table) | ((table >= 0) & (table <= 1))):
        raise ValueError("the table of marks holds a share outside 0 to 1")
    return table


def evidence(class_map: Floats, mark_map: Floats) -> float | None:
    """Return how much more of a class's evidence lies where a mark is read than chance would put there.

    The share of the class's map inside the mark's region, where the mark's map is above half its maximum, divided by
    the region's share of the image. 1 is chance. It shows that both look at the same place, not that one is the cause.

    Args:
        class_map: positive evidence for the class, or for it and against another, on the mark's grid, (h, w).
        mark_map: where the mark is read, (h, w).

    Returns:
        None where either map is empty.
    """
    total, peak = float(class_map.sum()), float(mark_map.max())
    if not total > 0 or not peak > 0:
        return None
    region = mark_map > peak / 2
    return float(class_map[region].sum()) / total / float(region.mean())


def split_mark(name: str) -> tuple[str, str]:
    """Return the part and the value of a mark's name, `part: value`.

    Raises:
        ValueError: it has no part or no value.
    """
    part, separator, value = name.partition(SEPARATOR)
    if not (part and separator and value):
        raise ValueError(f"a mark is named 'part: value', not {name!r}")
    return part, value


def common_values(part_of: Sequence[int], value_of: Sequence[int]) -> tuple[int, ...]:
    """Return the values by which places can be learnt: those that at least half of the parts can have, such as colours.

    Every part has marks of its own besides, but one reading for all parts is what makes it look at the right place.
    Where no value is so common, all that several parts can have are returned; where none is, all.
    """
    parts: dict[int, set[int]] = {}
    for part, value in zip(part_of, value_of, strict=True):
        parts.setdefault(value, set()).add(part)
    for least in (max(2, len(set(part_of)) / 2), 2, 1):
        if found := tuple(value for value, having in parts.items() if len(having) >= least):
            return found
    return ()


def numbered(words: Iterable[str]) -> tuple[tuple[str, ...], list[int]]:
    """Return the words that occur, in order, and the index of each given one."""
    known: dict[str, int] = {}
    numbers = [known.setdefault(word, len(known)) for word in words]
    return tuple(known), numbers
