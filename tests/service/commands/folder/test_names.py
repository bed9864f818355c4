"""Names as text: one printable line, and the same name back."""

import os

from hypothesis import given
from hypothesis import strategies as st

from service.commands.folder.names import from_text, to_text


@given(st.binary(max_size=30))
def test_every_name_comes_back(name: bytes) -> None:
    """A name is bytes; its text is UTF-8 in one line, and gives the name again."""
    text = to_text(os.fsdecode(name))
    text.encode()
    assert len(text.splitlines()) <= 1
    assert name == os.fsencode(from_text(text))


def test_usual_names_stay_as_they_are() -> None:
    """Only what cannot be shown is escaped."""
    assert "Vögel/鳥 1 (2).jpg" == to_text("Vögel/鳥 1 (2).jpg")
    assert "a\\x0Ab\\\\c\\xE9" == to_text("a\nb\\c\udce9")
