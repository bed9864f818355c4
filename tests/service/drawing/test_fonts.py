"""Captions are drawn in any script; missing characters as their code."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from service.drawing import fonts


def drawn(text: str) -> int:
    """Return how many pixels a line of text covers."""
    sheet = Image.new("L", (2000, 60))
    fonts.draw_text(ImageDraw.Draw(sheet), (10, 10), text, 24, "white")
    return int((np.asarray(sheet) > 128).sum())


def length(text: str) -> float:
    """Return how long a line is."""
    return fonts.text_length(ImageDraw.Draw(Image.new("L", (1, 1))), text, 24)


@pytest.mark.parametrize(
    "text", ["\u9ce5", "\u0436\u0443\u043a", "\u0637\u0627\u0626\u0631", "\u0e19\u0e01", "\U0001f426", "\U000f0000"]
)
@pytest.mark.parametrize("has_fonts", [True, False])
def test_every_label_is_visible(text: str, has_fonts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the script and the system's fonts, a label draws visible pixels."""
    for known in (fonts._font_of, fonts._readable):
        known.cache_clear()
    if not has_fonts:
        monkeypatch.setattr(fonts, "_system_fonts", lambda: ())
    try:
        assert drawn(text) > 20
        assert length(text) > 5
        if not has_fonts:
            assert fonts._readable(text).startswith("[U+")
            assert "a" == fonts._readable("\u00e4")
    finally:
        for known in (fonts._font_of, fonts._readable):
            known.cache_clear()


def test_lines_are_cut_to_a_length() -> None:
    """A long line is cut to the given length and ends in dots, in any script."""
    draw = ImageDraw.Draw(Image.new("L", (1, 1)))
    for text in ("a long name " * 20, "\u9ce5" * 80):
        cut = fonts.fitting(draw, text, 24, 300)
        assert cut.endswith("...")
        assert fonts.text_length(draw, cut, 24) <= 300
    assert "a" == fonts.fitting(draw, "a", 24, 300)
