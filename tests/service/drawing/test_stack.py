"""Pictures below each other."""

import io

from PIL import Image

from service.drawing.stack import stack


def encoded(size: tuple[int, int], colour: str) -> bytes:
    """Return a plain picture."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def test_pictures_keep_their_pixels_and_words_their_room() -> None:
    """Each picture lies whole under its words; long words get more lines."""
    pictures = [("one", encoded((300, 50), "red")), ("a very long sentence " * 9, encoded((200, 40), "blue"))]
    with Image.open(io.BytesIO(stack(pictures))) as sheet:
        colours = {colour: count for count, colour in sheet.getcolors(1 << 24)}
        assert (300 * 50, 200 * 40) == (colours[255, 0, 0], colours[0, 0, 255])
        assert 300 == sheet.width
        assert (0, 0, 255) == sheet.getpixel((0, sheet.height - 1))
        assert sheet.height > 50 + 40 + 6 * 14
