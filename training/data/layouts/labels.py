"""Names of classes, as shown to people."""

import re
from collections.abc import Sequence


def display_label(name: str) -> str:
    """Return a class's name for people: `001.Black_footed_Albatross` → `Black footed Albatross`."""
    return re.sub(r"^\d+[._]", "", name).replace("_", " ").strip() or name


def shown_labels(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names for people, unless two classes would then be called the same."""
    shown = tuple(display_label(name) for name in names)
    return shown if len(set(shown)) == len(shown) else tuple(names)
