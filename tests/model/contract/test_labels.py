"""What may be a label: any script and emoji, and nothing that breaks the text around it."""

import pytest

from model.contract.labels import label_fault


@pytest.mark.parametrize("label", ["Black footed Albatross", "می‌خورم", "👨‍👩‍👧", "क्‍ष", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "שלום\u200f", "a\u00a0b"])
def test_every_script_is_written(label: str) -> None:
    """With the joiners and marks that belong to it."""
    assert label_fault(label) is None


@pytest.mark.parametrize(
    ("label", "fault"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("a\nb", "holds a line break"),
        ("a\u2029b", "holds a line break"),
        ("a\x1bb", "holds the control character U+001B"),
        ("a\u202eb", "holds the control character U+202E"),
        ("a\udc80", "is not UTF-8"),
        ("\u200b\u200d", "shows nothing"),
    ],
)
def test_what_breaks_the_text_is_named(label: str, fault: str) -> None:
    """In words that follow the label's name."""
    assert label_fault(label) == fault
