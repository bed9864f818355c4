"""Text in any script, in the system's fonts; characters that none of them has are drawn as their code, `[U+9CE5]`."""

import os
import unicodedata
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_FOLDERS = (
    "/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts",
    "/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts", "C:/Windows/Fonts",
)  # fmt: skip
_MOST_FONTS = 300
_VARIANTS = frozenset(map(chr, range(0xFE00, 0xFE10)))
"""Variation selectors: they choose a form of the character before them."""
_JOINING = ("Mn", "Mc", "Me", "Cf")
"""Categories of characters that belong to the letter before them: marks, and joiners."""
_PREFERRED = ("dejavusans.", "notosans-regular", "notosanscjk-regular", "notosans", "arial", "sans")
"""Beginnings of names, the preferred first; italic, bold and fixed-width fonts come last."""
_AVOIDED = ("bold", "italic", "oblique", "mono", "emoji", "serif", "light", "black", "thin")


def draw_text(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: float, colour: str) -> None:
    """Draw a line of text from its left top corner; `text_length` returns its length."""
    left, top = place
    baseline = top + 0.95 * size
    for font, run in _runs(_readable(text), size):
        draw.text((left, baseline), run, colour, font, anchor="ls")
        left += draw.textlength(run, font)


def text_length(draw: ImageDraw.ImageDraw, text: str, size: float) -> float:
    """Return the length of a line of `draw_text`, pixels."""
    return sum(draw.textlength(run, font) for font, run in _runs(_readable(text), size))


def fitting(draw: ImageDraw.ImageDraw, text: str, size: float, room: float) -> str:
    """Return the text, cut to at most `room` pixels."""
    if text_length(draw, text, size) <= room:
        return text
    while text and text_length(draw, text + "...", size) > room:
        text = text[:-1]
    return text + "..."


def wrapped(draw: ImageDraw.ImageDraw, text: str, size: float, room: float) -> list[str]:
    """Return all of the text as lines of at most `room` pixels.

    It is broken at spaces, and within a word only where that has no room on a line of its own. A line holds at least
    one letter with its marks, however narrow the room.
    """
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if text_length(draw, longer, size) <= room:
            line = longer
            continue
        lines += [line] if line else []
        *whole, line = _pieces(draw, word, size, room)
        lines += whole
    return [*lines, line] if line else lines


def _pieces(draw: ImageDraw.ImageDraw, word: str, size: float, room: float) -> list[str]:
    """Return a word in pieces of at most `room` pixels, each but the last as long as possible."""
    pieces = [""]
    for letter in _letters(word):
        if pieces[-1] and text_length(draw, pieces[-1] + letter, size) > room:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def _letters(text: str) -> list[str]:
    """Return the text's letters, each with the marks and joiners that belong to it."""
    letters: list[str] = []
    for character in text:
        joined = bool(letters) and (letters[-1].endswith("\u200d") or unicodedata.category(character) in _JOINING)
        if joined:
            letters[-1] += character
        else:
            letters.append(character)
    return letters


@lru_cache(maxsize=4096)
def _readable(text: str) -> str:
    """Return the text with missing characters replaced: by their code, or where possible by the letter alone."""
    return "".join(_shown(character) for character in unicodedata.normalize("NFC", text))


def _shown(character: str) -> str:
    if _font_of(character) is not None:
        return character
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode("ascii")
    return plain or f"[U+{ord(character):04X}]"


def _runs(text: str, size: float) -> list[tuple[Font, str]]:
    """Return the text in pieces of one font each; marks and joiners stay with the letter before them."""
    pieces: list[tuple[str, str]] = []
    for character in text:
        path = _font_of(character) or ""
        joins = unicodedata.category(character) in (*_JOINING, "Zs")
        if pieces and (joins or path == pieces[-1][0]):
            pieces[-1] = (pieces[-1][0], pieces[-1][1] + character)
        else:
            pieces.append((path, character))
    return [(_load(path, round(size)), run) for path, run in pieces]


@lru_cache(maxsize=64)
def _load(path: str, size: int) -> Font:
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


@lru_cache(maxsize=8192)
def _font_of(character: str) -> str | None:
    """Return the path of the first font that has a character, empty for Pillow's own; None if none has it."""
    is_seen = not character.isspace() and unicodedata.category(character) != "Cf" and character not in _VARIANTS
    if not is_seen or _has("", character):
        return ""
    return next((path for path in _system_fonts() if _has(path, character)), None)


def _has(path: str, character: str) -> bool:
    try:
        font = _load(path, 16)
        return bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))
    except (OSError, ValueError):
        return False


@cache
def _system_fonts() -> tuple[str, ...]:
    """Return the system's fonts, plain and common ones first."""
    found = [
        path
        for folder in _FOLDERS
        for path in Path(os.path.expanduser(folder)).rglob("*")
        if path.suffix.lower() in (".ttf", ".otf", ".ttc")
    ]
    return tuple(str(path) for path in sorted(found, key=_rank)[:_MOST_FONTS])


def _rank(path: Path) -> tuple[int, int, str]:
    name = path.name.lower()
    preferred = next((place for place, begin in enumerate(_PREFERRED) if name.startswith(begin)), len(_PREFERRED))
    return sum(word in name for word in _AVOIDED), preferred, name


def percent(probability: float) -> str:
    """Return a probability in words, never rounded to none or to certain; as the page does."""
    if probability < 0.001:
        return "under 0.1%"
    return "over 99.9%" if probability >= 0.9995 else f"{probability:.1%}"
