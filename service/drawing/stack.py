"""Pictures below each other, each under its line of words: a photo and the same photo changed."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw

from service.drawing.encode import encode
from service.drawing.fonts import draw_text, wrapped

_PAPER, _INK = "#ffffff", "#16202a"


def stack(pictures: Sequence[tuple[str, bytes]]) -> bytes:
    """Return the pictures as one, a PNG; for a worker thread.

    Args:
        pictures: (words, encoded picture), from top to bottom.
    """
    opened = []
    for words, data in pictures:
        with Image.open(io.BytesIO(data)) as file:
            opened.append((words, file.convert("RGB")))
    width = max(picture.width for _, picture in opened)
    unit = min(max(width // 80, 14), 40)
    measure = ImageDraw.Draw(Image.new("L", (1, 1)))
    texts = [wrapped(measure, words, unit, width - 2 * unit) for words, _ in opened]
    heights = [
        round((1.4 * len(lines) + 1) * unit) + picture.height for lines, (_, picture) in zip(texts, opened, strict=True)
    ]
    sheet = Image.new("RGB", (width, sum(heights)), _PAPER)
    draw, top = ImageDraw.Draw(sheet), 0
    for lines, (_, picture), height in zip(texts, opened, heights, strict=True):
        for number, line in enumerate(lines):
            draw_text(draw, (unit, top + (1 + 1.4 * number) * unit), line, unit, _INK)
        sheet.paste(picture, (0, top + height - picture.height))
        top += height
    return encode(sheet, "image/png")
