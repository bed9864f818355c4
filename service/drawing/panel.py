"""The panel: the photo and its maps side by side, with captions."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from service.drawing.fonts import draw_text, fitting, percent
from service.drawing.maps import ScaledMap, coloured, palette_of

_PAPER, _INK, _FAINT, _ACCENT, _TRACK = "#ffffff", "#16202a", "#66727f", "#2f6f5e", "#e6eaee"


def panel(
    photo: Image.Image,
    maps: list[tuple[str, ScaledMap, Image.Image]],
    caption: str,
    probability: float | None,
    colormap: str = "turbo",
) -> Image.Image:
    """Draw the photo and its maps side by side, with the class, its probability and each map's raw range.

    Args:
        photo: RGB.
        maps: (title, map, overlay of the photo's size), left to right.
        caption: the class.
        probability: of the class, 0 to 1; None draws no bar.
        colormap: of the overlays, for the colour bars.
    """
    width, height = photo.size
    unit = min(max(round(max(width, height) / 28), 12), 40)  # the text grows with the pictures
    column = max(width, 9 * unit)  # a narrow photo still has room for its title
    count = 1 + len(maps)
    head, foot = round(4.2 * unit), round(3.4 * unit)
    sheet = Image.new("RGB", (count * column + (count + 1) * unit, head + height + foot), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_head(draw, (unit, unit, sheet.width - unit), unit, caption, probability)
    for i, (title, scaled, shown) in enumerate([("photo", None, photo), *maps]):
        left = unit + i * (column + unit)
        sheet.paste(shown, (left + (column - width) // 2, head))
        _draw_foot(sheet, (left, head + height + unit // 2), (column, unit), title, scaled, colormap)
    return sheet


def _draw_head(
    draw: ImageDraw.ImageDraw, place: tuple[int, int, int], unit: int, caption: str, probability: float | None
) -> None:
    left, top, right = place
    size = 1.35 * unit
    font = ImageFont.load_default(size)
    share = "" if probability is None else percent(probability)
    draw.text((right, top), share, _ACCENT, font, anchor="ra")
    room = right - left - draw.textlength(share, font) - unit
    draw_text(draw, (left, top), fitting(draw, caption, size, room), size, _INK)
    if probability is not None:
        bar = top + 2 * unit
        thick = max(unit // 3, 3)
        draw.rounded_rectangle((left, bar, right, bar + thick), thick / 2, _TRACK)
        filled = left + max((right - left) * min(max(probability, 0.0), 1.0), thick)
        draw.rounded_rectangle((left, bar, filled, bar + thick), thick / 2, _ACCENT)


def _draw_foot(
    sheet: Image.Image,
    place: tuple[int, int],
    room: tuple[int, int],
    title: str,
    scaled: ScaledMap | None,
    colormap: str,
) -> None:
    (left, top), (width, unit) = place, room
    draw = ImageDraw.Draw(sheet)
    draw_text(draw, (left, top), fitting(draw, title, unit, width), unit, _INK)
    if scaled is None:
        return
    small = ImageFont.load_default(0.8 * unit)
    line = top + round(1.6 * unit)
    note = _note(title, scaled)
    if note:
        draw_text(draw, (left, line), fitting(draw, note, 0.8 * unit, width), 0.8 * unit, _FAINT)
        return
    low, high = f"{scaled.min:.3g}", f"{scaled.max:.3g}"
    draw.text((left, line), low, _FAINT, small)
    draw.text((left + width, line), high, _FAINT, small, anchor="ra")
    start = left + round(draw.textlength(low, small)) + unit // 2
    stop = left + width - round(draw.textlength(high, small)) - unit // 2
    if stop > start:
        steps = np.linspace(0, 254, stop - start).astype(np.uint8)
        ramp = Image.fromarray(np.broadcast_to(steps, (max(unit // 2, 4), stop - start)).copy())
        sheet.paste(coloured(ramp, palette_of(colormap)).convert("RGB"), (start, line + unit // 5))


def _note(title: str, scaled: ScaledMap) -> str:
    """Return a note where the colours mean nothing; empty otherwise."""
    if scaled.is_zero:
        return "no positive evidence"
    if title == "attention" and scaled.is_flat:
        return f"flat: {scaled.min:.3f} to {scaled.max:.3f}"
    return ""
