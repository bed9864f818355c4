"""The photo with numbered places: rings where the marks are, all words in full, a file of every type."""

import io

import numpy as np
import pytest
from PIL import Image

from service.drawing.marks import NumberedMark, render_marks
from service.errors import InvalidOption, TooManyPixels
from tests.service.drawing.conftest import RESIZE, photo

CROWN = NumberedMark("yellow crown", "seen 97%, typical 93%", (150.0, 90.0))


def drawn(*marks: NumberedMark, size: tuple[int, int] = (300, 200), caption: str = "A bird") -> Image.Image:
    """Return the picture of a grey photo with these marks."""
    data = render_marks(photo(*size), RESIZE, marks, caption=caption, probability=0.9)
    return Image.open(io.BytesIO(data)).convert("RGB")


def changed(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Return which pixels of the photo in the picture are not its grey, as the photo is shown: 320 pixels wide."""
    unit = 14
    shown = np.asarray(image)[unit : unit + size[1], unit : unit + size[0]]
    return (shown != 128).any(axis=2)


def test_the_place_is_marked() -> None:
    """A ring lies around the place and leaves its middle free; the rest of the photo stays as it is."""
    marked = changed(drawn(CROWN, size=(320, 200)), (320, 200))
    assert not marked[90, 150]
    assert marked[90 - 12 : 90 + 12, 150 - 12 : 150 + 12].any()
    assert not marked[130:].any()
    assert not marked[:, :120].any()


def test_a_mark_without_a_place_is_in_the_words_alone() -> None:
    """Its number stands beside its name, and nothing on the photo."""
    nowhere = NumberedMark("black eye", "its place is not known", None)
    assert not changed(drawn(nowhere, size=(320, 200)), (320, 200)).any()
    assert drawn(nowhere).height > drawn().height


@pytest.mark.parametrize("shift", [0, -22.4, 22.4, 35])
def test_marks_of_one_place_do_not_hide_each_other(shift: float) -> None:
    """A second and a third number at the same place, or near it, cover pixels of their own."""
    near = NumberedMark("yellow forehead", "", (150.0 + shift, 90.0))
    marks = (CROWN, near, CROWN)
    counts = [changed(drawn(*marks[:count], size=(320, 200)), (320, 200)).sum() for count in (1, 2, 3)]
    assert counts[0] + 150 < counts[1]
    assert counts[1] + 150 < counts[2]


@pytest.mark.parametrize("at", [(0.5, 0.5), (299.5, 0.5), (0.5, 199.5), (299.5, 199.5)])
def test_places_at_the_edge(at: tuple[float, float]) -> None:
    """A place in a corner is marked, and its number stays on the photo."""
    picture = drawn(NumberedMark("a", "", at))
    plain = drawn(NumberedMark("a", "", None))
    different = (np.asarray(picture) != np.asarray(plain)).any(axis=2)
    rows, columns = np.nonzero(different)
    assert rows.min() >= 0
    assert rows.max() < 14 + 213 + 14
    assert columns.max() < 14 + 320 + 14


@pytest.mark.parametrize("name", ["a very long name of a mark " * 20, "無毛の黄色い冠羽" * 30, "жёлтое темя " * 30, ""])
def test_names_are_never_cut(name: str) -> None:
    """Two marks that differ in the last letter of a long name give different pictures, in any script."""
    one, other = (np.asarray(drawn(NumberedMark(name + last, "", None))) for last in "ab")
    assert one.shape == other.shape
    assert (one != other).any()


def test_words_stand_beside_a_tall_photo_and_below_a_wide_one() -> None:
    """The picture grows to the right of a tall photo, and below a wide one."""
    tall, wide = drawn(CROWN, size=(200, 320)), drawn(CROWN, size=(320, 200))
    assert tall.width > tall.height
    assert wide.height > 200 + 3 * 14


@pytest.mark.parametrize("media_type", ["image/png", "image/webp", "image/jpeg"])
@pytest.mark.parametrize("size", [(640, 480), (31, 97), (1, 1), (900, 3)])
def test_every_type_and_size(media_type: str, size: tuple[int, int]) -> None:
    """A file of its type, whatever the photo, with and without marks."""
    for marks in ([], [NumberedMark("yellow crown", "seen 97%", (size[0] / 2, size[1] / 2))]):
        data = render_marks(photo(*size), RESIZE, marks, caption="A", probability=1.0, media_type=media_type)
        assert media_type == Image.MIME[str(Image.open(io.BytesIO(data)).format)]


def test_pictures_beyond_the_limits_are_refused() -> None:
    """A picture that a format cannot hold, or of too many pixels, is refused."""
    with pytest.raises(TooManyPixels):
        render_marks(photo(10, 10), RESIZE, [CROWN], caption="A", probability=1.0, size=5000)
    long = NumberedMark("abc " * 12_000, "", None)
    with pytest.raises(InvalidOption, match="holds at most"):
        render_marks(photo(10, 10), RESIZE, [long], caption="A", probability=1.0, media_type="image/webp")
