"""Field marks: the table class × mark, and how far a mark lies where the decision looked. Free of torch."""

import base64
import binascii
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
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
