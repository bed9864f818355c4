"""Which class names are valid in a model's file: the one rule for training, export and service."""

import unicodedata

_OVERRIDES = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
"""Characters that turn the direction of the text around a label."""


def label_fault(label: str) -> str | None:
    """Return what is wrong with a label, or None.

    Any script and emoji are fine, joiners inside words too, as Persian and Hindi are written; what breaks a line, a
    log or the text around it is not.

    Args:
        label: as shown to people.
    """
    if not label.strip():
        return "is empty"
    for letter in label:
        kind = unicodedata.category(letter)
        if letter in "\n\r\x0b\x0c\x85" or kind in ("Zl", "Zp"):
            return "holds a line break"
        if kind == "Cc" or letter in _OVERRIDES:
            return f"holds the control character U+{ord(letter):04X}"
        if kind == "Cs":
            return "is not UTF-8"
    if all(unicodedata.category(letter) in ("Cf", "Zs", "Mn") for letter in label):
        return "shows nothing"
    return None
