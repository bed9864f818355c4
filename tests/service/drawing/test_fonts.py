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


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("yellow crown", ["yellow crown"]),
        ("a word and another one and a third", ["a word and another", "one and a third"]),
        ("", []),
        ("  spaces   between ", ["spaces between"]),
    ],
)
def test_text_is_wrapped_at_spaces(text: str, lines: list[str]) -> None:
    """Lines are broken at spaces."""
    draw = ImageDraw.Draw(Image.new("L", (1, 1)))
    assert lines == fonts.wrapped(draw, text, 24, 230)


@pytest.mark.parametrize("word", ["u" * 100, "\u9ce5" * 40, "e\u0301" * 60, "\U0001f468\u200d\U0001f33e" * 20])
def test_words_without_room_are_broken_between_letters(word: str) -> None:
    """Nothing is lost, every line has room, and no mark or joiner is parted from its letter."""
    draw = ImageDraw.Draw(Image.new("L", (1, 1)))
    lines = fonts.wrapped(draw, f"a {word} b", 24, 320)
    assert f"a{word}b" == "".join(lines).replace(" ", "")
    assert len(lines) > 2
    assert all(fonts.text_length(draw, line, 24) <= 320 for line in lines)
    assert not any(line[0] in "\u0301\u200d" or line[-1] == "\u200d" for line in lines)


def test_a_room_too_narrow_for_a_letter() -> None:
    """Every line still holds a letter."""
    assert list("wide") == fonts.wrapped(ImageDraw.Draw(Image.new("L", (1, 1))), "wide", 24, 1)


def test_probabilities_are_never_rounded_to_none_or_to_certain() -> None:
    """As on the page."""
    shares = (0.0, 0.0009, 0.001, 0.5, 0.9994, 0.9995)
    assert ["under 0.1%", "under 0.1%", "0.1%", "50.0%", "99.9%", "over 99.9%"] == [
        fonts.percent(share) for share in shares
    ]
