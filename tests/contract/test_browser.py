"""The decoder shows a photo as a real Chromium shows it."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from model.photo.decode import decode_image
from model.photo.formats import sniff
from tests.model.photo.files import animated, encoded, oriented
from tests.model.photo.kinds import kinds
from tests.service.browser import CHROMIUM, Page, chromium

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")

DRAW = """
(async () => {
  const photo = new Image();
  photo.src = "data:image/%s;base64,%s";
  await photo.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [photo.naturalWidth, photo.naturalHeight];
  const context = canvas.getContext("2d", {colorSpace: "srgb"});
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(photo, 0, 0);
  return canvas.toDataURL("image/png");
})()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Return an empty tab."""
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def photo(bird_photos: list[Path]) -> Image.Image:
    """Return a small real photo of many colours."""
    with Image.open(next(path for path in bird_photos if "Painted_Bunting" in path.name)) as image:
        return image.convert("RGB").resize((240, 180))


def shown(page: Page, data: bytes) -> npt.NDArray[np.int64]:
    """Return the pixels of a file on a white canvas of sRGB, (h, w, 3)."""
    address = page.run(DRAW % ((sniff(data) or "").lower(), base64.b64encode(data).decode()))
    canvas = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    return np.asarray(canvas.convert("RGB")).astype(np.int64)


def decoded(data: bytes) -> npt.NDArray[np.int64]:
    """Return the pixels of the decoder, (h, w, 3)."""
    return np.asarray(decode_image(data).image).astype(np.int64)


def test_every_kind_looks_as_in_the_browser(page: Page, photo: Image.Image) -> None:
    """Depth, profiles, inks, transparency, orientation: equal up to rounding, four levels at most, one on average."""
    far = {}
    for kind, data in kinds(photo).items():
        if kind.startswith("tiff"):
            continue
        ours, theirs = decoded(data), shown(page, data)
        assert ours.shape == theirs.shape, kind
        difference = np.abs(ours - theirs)
        if difference.max() > 4 or difference.mean() > 1:
            far[kind] = (int(difference.max()), float(difference.mean()))
    assert far == {}


def test_profiles_are_seen(page: Page, photo: Image.Image) -> None:
    """The comparison can fail: the browser shows what a profile, inks or an orientation change."""
    files = kinds(photo)
    plain = shown(page, encoded(photo, "PNG"))
    assert np.abs(shown(page, files["p3 png"]) - plain).max() <= 3
    with Image.open(io.BytesIO(files["p3 png"])) as opened:
        unmanaged = np.asarray(opened.convert("RGB")).astype(np.int64)
    assert np.abs(unmanaged - plain).max() > 10
    assert np.abs(shown(page, files["cmyk jpeg with profile"]) - shown(page, files["cmyk jpeg"])).max() > 10
    assert shown(page, files["jpeg turned by exif"]).shape != plain.shape


def test_webp_is_turned_where_chromium_does_not(page: Page, photo: Image.Image) -> None:
    """The one orientation in which the decoder follows the file rather than this browser; see `orientation`."""
    data = encoded(photo, "WEBP", exif=oriented(6))
    assert shown(page, data).shape == (180, 240, 3)
    assert decoded(data).shape == (240, 180, 3)


def test_real_odd_photos(page: Page, data_dir: Path) -> None:
    """Turned, grey, of four inks, with odd headers: as the browser shows them, to a level."""
    names = "exif_Landscape_6.jpg exif_Portrait_5.jpg hopper_gray.jpg pil_sample_cmyk.jpg icc-after-SOF.jpg flower.webp"
    for name in [
        *names.split(),
        "p_trns_single.png",
        "i_trns.png",
        "transparent.gif",
        "avif__rot3mir0.avif",
        "apng__mode_16bit.png",
    ]:
        data = (data_dir / "awkward" / name).read_bytes()
        assert np.abs(decoded(data) - shown(page, data)).max() <= 1, name


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("corner", [None, (20, 30)])
def test_animations_begin_as_in_the_browser(
    page: Page, photo: Image.Image, mode: str, corner: tuple[int, int] | None
) -> None:
    """The first frame of an APNG is shown, never the default image, on paper where it is smaller than the canvas."""
    frame = photo.convert(mode) if corner is None else photo.convert(mode).resize((50, 40))
    data = animated(Image.new(mode, photo.size, "gray"), frame, corner or (0, 0))
    assert np.abs(decoded(data) - shown(page, data)).max() <= 1
