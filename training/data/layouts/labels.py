"""Names of classes as shown to people; invalid ones are refused when the data set is read, not after training."""

import re
import unicodedata
from collections.abc import Sequence

from model.contract.labels import label_fault
from training.errors import DatasetError

NUMBERED = re.compile(r"(\d{3})\.\D")
"""How CUB-200-2011 names its classes: `001.Black_footed_Albatross`."""


def display_label(name: str) -> str:
    """Return a class's name for people, with plain single spaces: `Black_footed_Albatross` → `Black footed Albatross`.

    Line breaks stay, to be refused.
    """
    plain = unicodedata.normalize("NFC", name).replace("_", " ")
    spaced = "".join(" " if letter == "\t" or unicodedata.category(letter) == "Zs" else letter for letter in plain)
    return re.sub(" +", " ", spaced).strip(" \ufeff") or name


def shown_labels(names: Sequence[str], places: Sequence[object], *, cub: bool = False) -> tuple[str, ...]:
    """Return the names for people; CUB's own, numbered one after the other, lose their number.

    Args:
        names: of the classes, as the data set has them.
        places: of each name: a folder, or a file and its row.
        cub: the lists are CUB's: its numbers go even where some are missing.

    Raises:
        DatasetError: a name cannot be a label, or differs from another by blanks, case or invisible characters alone.
    """
    shown = tuple(map(display_label, names))
    if cub or _numbered_as_cub(names):
        bare = tuple(display_label(re.sub(r"^\d+[._]", "", name)) for name in names)
        shown = bare if len(set(map(label_key, bare))) == len(bare) else shown
    first: dict[str, int] = {}
    for number, label in enumerate(shown):
        if fault := label_fault(label):
            raise DatasetError(f"{places[number]!s}: the name of the class, {names[number]!r}, {fault}")
        other = first.setdefault(label_key(label), number)
        if other != number:
            raise DatasetError(
                f"the classes {names[other]!r} ({places[other]!s}) and {names[number]!r} ({places[number]!s}) "
                f"differ by blanks, case or invisible characters alone: give them one name, or two"
            )
    return shown


def _numbered_as_cub(names: Sequence[str]) -> bool:
    found = [NUMBERED.match(name) for name in names]
    numbers = [int(match[1]) for match in found if match]
    # `911.Carrera` beside `718.Cayman` are names, not numbers.
    return len(numbers) == len(names) > 1 and sorted(numbers) == list(range(min(numbers), max(numbers) + 1))


def label_key(label: str) -> str:
    """Return a key that labels which look alike share."""
    folded = unicodedata.normalize("NFC", label).casefold()
    return "".join(letter for letter in folded if letter != " " and unicodedata.category(letter) != "Cf")
