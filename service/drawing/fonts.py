"""Text in any script, in the fonts that the system has; what none of them has is drawn as its code, `[U+9CE5]`."""

import os
import sys
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
"""Choose among the forms of the letter before them."""
_LIKED = ("dejavusans.", "notosans-regular", "notosanscjk-regular", "notosans", "arial", "sans")
"""Beginnings of names, the favourite first; italic, bold and fixed-width ones come last."""
_DISLIKED = ("bold", "italic", "oblique", "mono", "emoji", "serif", "light", "black", "thin")


def draw_text(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: float, colour: str) -> None:
    """Draw a line of text whose left top corner is given, as long as `text_length`."""
    left, top = place
    baseline = top + 0.95 * size
    for font, run in _runs(_readable(text), size):
        draw.text((left, baseline), run, colour, font, anchor="ls")
        left += draw.textlength(run, font)


def text_length(draw: ImageDraw.ImageDraw, text: str, size: float) -> float:
    """Return how long `draw_text` draws a line, pixels."""
    return sum(draw.textlength(run, font) for font, run in _runs(_readable(text), size))


def fitting(draw: ImageDraw.ImageDraw, text: str, size: float, room: float) -> str:
    """Return the text, cut to the room."""
    if text_length(draw, text, size) <= room:
        return text
    while text and text_length(draw, text + "...", size) > room:
        text = text[:-1]
    return text + "..."


@lru_cache(maxsize=4096)
def _readable(text: str) -> str:
    """Return the text, what no font has as its code, or without its accents where these alone are missing."""
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
        joins = unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf", "Zs")
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
    """Return the path of the first font that has a character, empty for Pillow's own; None where none has it."""
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
    folders = [Path(folder).expanduser() for folder in _FOLDERS if not folder.startswith("~") or "HOME" in os.environ]
    if sys.platform != "win32":
        folders = [folder for folder in folders if folder.drive == "" and not str(folder).startswith("C:")]
    found = [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix.lower() in (".ttf", ".otf", ".ttc")
    ]  # fmt: skip
    return tuple(str(path) for path in sorted(found, key=_rank)[:_MOST_FONTS])


def _rank(path: Path) -> tuple[int, int, str]:
    name = path.name.lower()
    liked = next((place for place, begin in enumerate(_LIKED) if name.startswith(begin)), len(_LIKED))
    return sum(word in name for word in _DISLIKED), liked, name
