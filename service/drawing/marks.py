"""The photo with numbered places, and beside or below it the field marks in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from model.contract.geometry import Resize
from model.photo.decode import DecodedImage
from service.drawing.encode import check_size, encode
from service.drawing.fonts import draw_text, percent, wrapped
from service.drawing.maps import Placement
from service.drawing.overlay import picture

NO_MARK = "No field mark of this class is seen."
_PAPER, _INK, _FAINT, _ACCENT, _ON_ACCENT = "#ffffff", "#16202a", "#66727f", "#2f6f5e", "#ffffff"
_SMOOTH = 4
"""Circles are drawn this much larger and scaled down: Pillow does not smooth their edges."""
_SPOTS = 4
"""Spots for numbers on each side of a place."""


@dataclass(frozen=True, slots=True)
class NumberedMark:
    """A field mark as it is drawn.

    Attributes:
        name: as shown to people.
        details: a second line, smaller; may be empty.
        at: place in the original photo's pixels, (x, y); None where it has none, and gets a number in the words alone.
    """

    name: str
    details: str
    at: tuple[float, float] | None


def render_marks(
    decoded: DecodedImage,
    resize: Resize,
    marks: Sequence[NumberedMark],
    *,
    caption: str,
    probability: float,
    size: int | None = None,
    media_type: str = "image/png",
) -> bytes:
    """Return the photo with numbered places and the words as an encoded picture; for a worker thread.

    Words stand beside a photo that is not wider than high, else below it. No text is cut: the picture grows with it.

    Args:
        decoded: the photo.
        resize: geometry of the model.
        marks: in the order of their numbers, from 1.
        caption: the class.
        probability: of the class, 0 to 1.
        size: longer side of the photo in the picture, pixels; None: as in a panel.
        media_type: `image/png`, `image/webp` or `image/jpeg`.

    Raises:
        InvalidOption: a picture longer than the format can hold.
        TooManyPixels: more than `MAX_DRAWN_PIXELS`.
    """
    longest = size or min(max(decoded.width, decoded.height, 320), 768)
    placement = Placement.on(resize, decoded.width, decoded.height, longest)
    check_size(placement, media_type)
    photo = picture(decoded, placement).copy()
    unit = min(max(round(longest / 28), 14), 40)  # the text grows with the photo
    scale_x, scale_y = photo.width / decoded.width, photo.height / decoded.height
    places = [None if mark.at is None else (mark.at[0] * scale_x, mark.at[1] * scale_y) for mark in marks]
    _draw_places(photo, places, unit)
    beside = photo.width <= photo.height
    words = _Words(unit, max(photo.width, 16 * unit) if not beside else max(round(0.8 * photo.height), 16 * unit))
    words.add(caption, 1.35 * unit, _INK)
    words.add(percent(probability), 1.1 * unit, _ACCENT)
    for number, mark in enumerate(marks, 1):
        words.add_numbered(number, mark)
    if not marks:
        words.add(NO_MARK, unit, _FAINT)
    left, top = (photo.width + 2 * unit, unit) if beside else (unit, photo.height + 2 * unit)
    width = max(left + words.width, photo.width + unit) + unit
    height = max(top + round(words.height), photo.height + unit) + unit
    check_size(Placement(width, height, (0, 0, width, height)), media_type)
    sheet = Image.new("RGB", (width, height), _PAPER)
    sheet.paste(photo, (unit, unit))
    words.draw(sheet, left, top)
    return encode(sheet, media_type)


class _Words:
    """Lines of text in a column, laid out before the sheet is made.

    Args:
        unit: height of the usual text, pixels.
        width: of the column, pixels.
    """

    def __init__(self, unit: int, width: int) -> None:
        self.width, self.height = width, 0.0
        self._unit = unit
        self._lines: list[tuple[float, float, str, float, str]] = []
        self._numbers: list[tuple[float, int]] = []
        self._measure = ImageDraw.Draw(Image.new("L", (1, 1)))

    def add(self, text: str, size: float, colour: str, indent: float = 0.0) -> None:
        """Add a paragraph."""
        for line in wrapped(self._measure, text, size, self.width - indent):
            self._lines.append((indent, self.height, line, size, colour))
            self.height += 1.4 * size

    def add_numbered(self, number: int, mark: NumberedMark) -> None:
        """Add a mark's number, name and details."""
        self.height += 0.6 * self._unit
        self._numbers.append((self.height, number))
        self.add(mark.name, 1.1 * self._unit, _INK, 2.0 * self._unit)
        self.add(mark.details, 0.85 * self._unit, _FAINT, 2.0 * self._unit)

    def draw(self, sheet: Image.Image, left: int, top: int) -> None:
        """Draw all of it from its left top corner."""
        draw = ImageDraw.Draw(sheet)
        for indent, height, line, size, colour in self._lines:
            draw_text(draw, (left + indent, top + height), line, size, colour)
        for height, number in self._numbers:
            _draw_badge(sheet, (left + 0.75 * self._unit, top + height + 0.65 * self._unit), number, self._unit)


def _draw_places(photo: Image.Image, places: Sequence[tuple[float, float] | None], unit: int) -> None:
    """Draw a ring around each place and its number beside it; marks of one part share a ring."""
    rings: list[tuple[float, float]] = []
    badges: list[tuple[float, float]] = []
    for number, place in enumerate(places, 1):
        if place is None:
            continue
        if all(math.dist(place, ring) >= 2 * unit for ring in rings):
            _draw_disc(photo, place, 0.8 * unit, ring=True)
            rings.append(place)
        beside = _beside(place, unit, photo.width)
        # Numbers of places that are near but not the same would hide each other, too.
        free = (spot for spot in beside if all(math.dist(spot, badge) >= 1.6 * unit for badge in badges))
        badges.append(next(free, beside[0]))
        _draw_badge(photo, badges[-1], number, unit)


def _beside(place: tuple[float, float], unit: int, width: int) -> list[tuple[float, float]]:
    """Return spots for a place's number, the best first: in a row above it or, near the upper edge, below it."""
    x, y = place
    shifts = [side * unit * (1.2 + 1.6 * step) for side in (1, -1) for step in range(_SPOTS)]
    inside = [shift for shift in shifts if unit <= x + shift <= width - unit]
    return [(x + shift, y - unit if y > 2 * unit else y + unit) for shift in inside or shifts]


def _draw_badge(sheet: Image.Image, centre: tuple[float, float], number: int, unit: int) -> None:
    _draw_disc(sheet, centre, 0.75 * unit)
    font = ImageFont.load_default(unit)
    ImageDraw.Draw(sheet).text(centre, str(number), _ON_ACCENT, font, anchor="mm")


def _draw_disc(sheet: Image.Image, centre: tuple[float, float], radius: float, *, ring: bool = False) -> None:
    """Draw a disc, or a ring that shows what lies in it; edged in white, so that it is seen on any photo."""
    side = round(2 * radius * 1.2) + 2
    big = Image.new("RGBA", (side * _SMOOTH, side * _SMOOTH))
    draw, middle, edge = ImageDraw.Draw(big), side * _SMOOTH / 2, radius * _SMOOTH
    for share, colour in (
        (1.2, _ON_ACCENT),
        (1.0, _ACCENT),
        *(((0.75, _ON_ACCENT), (0.6, (0, 0, 0, 0))) if ring else ()),
    ):
        reach = share * edge
        draw.ellipse((middle - reach, middle - reach, middle + reach, middle + reach), colour)
    small = big.resize((side, side), Image.Resampling.BOX)
    sheet.paste(small, (round(centre[0] - side / 2), round(centre[1] - side / 2)), small)
