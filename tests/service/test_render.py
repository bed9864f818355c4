"""Maps are scaled as pytorch-grad-cam scales them and land where the network looked."""

import base64
import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from model.contract.geometry import Resize
from service.colormaps import COLORMAPS
from service.errors import InvalidOption, TooManyPixels
from service.image import DecodedImage
from service.render import (
    UNSEEN,
    Placement,
    View,
    encode,
    heatmap,
    overlay,
    picture,
    place_map,
    render_layer,
    render_view,
    scale_map,
)

RESIZE = Resize(size=256, crop=224)
RANDOM = np.random.default_rng(5)


def photo(width: int, height: int) -> DecodedImage:
    """Return a grey photo."""
    return DecodedImage(Image.new("RGB", (width, height), (128, 128, 128)), width, height, "PNG")


def peak(row: int, column: int, side: int = 7) -> npt.NDArray[np.float32]:
    """Return a map with one hot cell."""
    grid = np.zeros((side, side), np.float32)
    grid[row, column] = 2.5
    return grid


# ── scaling ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shape", [(7, 7), (14, 14), (10, 10), (3, 5)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_display_equals_pytorch_grad_cam(shape: tuple[int, int], scale: float) -> None:
    """The scaled map is the peer's, over magnitudes and grids."""
    peer = pytest.importorskip("pytorch_grad_cam.utils.image")
    for _ in range(5):
        values = (RANDOM.standard_normal(shape).clip(0) * scale).astype(np.float32)
        first = peer.scale_cam_image(values[None], (224, 224))
        expected = peer.scale_cam_image(first)[0]
        assert np.abs(scale_map(values, 224).display(224) - expected).max() < 1e-4


def test_zero_map_stays_zero_and_says_so() -> None:
    """No evidence is no picture of noise."""
    scaled = scale_map(np.zeros((7, 7)))
    assert (0.0, 0.0, True) == (scaled.min, scaled.max, scaled.is_zero)
    assert scaled.display(224).max() == 0


def test_not_a_number_counts_as_zero() -> None:
    """A map that could not be made is empty."""
    assert scale_map(np.full((7, 7), np.nan)).is_zero


def test_raw_range_travels_with_the_map() -> None:
    """Least and greatest are those of the raw cells."""
    scaled = scale_map(np.array([[0.5, 0.51], [0.505, 0.512]]))
    assert (0.5, pytest.approx(0.512), True, False) == (scaled.min, scaled.max, scaled.is_flat, scaled.is_zero)
    assert not scale_map(np.array([[0.5, 0.6]])).is_flat


# ── geometry ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_square_image_equals_the_display() -> None:
    """Where the network saw the whole image at its own size, nothing is interpolated anew."""
    scaled = scale_map(peak(2, 4))
    values, seen = place_map(scaled.grid, Placement.on(Resize(size=224, crop=224), 224, 224))
    assert seen.all()
    assert np.abs(values - scaled.display(224)).max() <= 0.5 / 254 + 1e-6


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1000, 100), (100, 1000), (301, 299), (5, 4), (3000, 2000)])
@pytest.mark.parametrize("resize", [RESIZE, Resize(mode="stretch", size=256, crop=224)], ids=["shorter", "stretch"])
@pytest.mark.parametrize("cell", [(0, 0), (3, 3), (6, 2)])
def test_map_lands_where_the_network_looked(size: tuple[int, int], resize: Resize, cell: tuple[int, int]) -> None:
    """The centre of the hot area on the original is the centre of the hot cell, through any proportions."""
    left, top, right, bottom = resize.source_box(*size)
    values, seen = place_map(scale_map(peak(*cell)).grid, Placement.on(resize, *size))
    assert (size[1], size[0]) == values.shape
    assert pytest.approx((right - left) * (bottom - top), abs=2 * sum(size) + 1) == seen.sum()
    assert values[~seen].sum() == 0
    hot = values > 0.6
    if min(size) > 50:
        rows, columns = np.nonzero(hot)
        step_x, step_y = (right - left) / 7, (bottom - top) / 7
        # A hot cell at the border reaches the border, so its middle lies a quarter cell further out.
        expected = top + (cell[0] + 0.5) * step_y, left + (cell[1] + 0.5) * step_x
        assert abs(rows.mean() + 0.5 - expected[0]) < 0.3 * step_y
        assert abs(columns.mean() + 0.5 - expected[1]) < 0.3 * step_x


def test_strips_meet_without_a_seam() -> None:
    """A large image is coloured in strips that equal one piece."""
    scaled, resize = scale_map(RANDOM.random((7, 7))), Resize(size=224, crop=224)
    large, _ = place_map(scaled.grid, Placement.on(resize, 2000, 2000))
    small, _ = place_map(scaled.grid, Placement.on(resize, 1000, 1000))
    steps = np.abs(np.diff(large, axis=0)).max(), np.abs(np.diff(small, axis=0)).max()
    assert steps[0] <= steps[1]


def test_size_sets_the_longer_side() -> None:
    """Proportions stay, the box scales along."""
    placement = Placement.on(RESIZE, 640, 480, 320)
    assert (320, 240) == (placement.width, placement.height)
    assert pytest.approx([value / 2 for value in RESIZE.source_box(640, 480)]) == list(placement.seen)


def test_picture_of_a_reduced_image_has_the_originals_geometry() -> None:
    """A photo decoded at a quarter is enlarged to where its pixels belong."""
    reduced = Image.new("RGB", (26, 20))
    reduced.paste("white", (13, 0, 26, 20))
    shown = picture(DecodedImage(reduced, 101, 79, "JPEG", scale=4), Placement.on(RESIZE, 101, 79))
    assert (101, 79) == shown.size
    edge = np.asarray(shown)[40, :, 0].astype(int)
    assert abs(int(np.argmax(edge > 127)) - 52) <= 1


# ── colour ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["turbo", "viridis", "inferno", "jet"])
def test_colour_tables_are_matplotlibs(name: str) -> None:
    """The vendored tables are those everybody knows."""
    matplotlib = pytest.importorskip("matplotlib")
    assert np.array_equal(matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3], COLORMAPS[name])


def test_heatmap_is_a_palette_image_with_the_ends_of_the_table() -> None:
    """The least value has the table's first colour, the greatest its last, the unseen none of them."""
    ramp = np.tile(np.linspace(0, 1, 7, dtype=np.float32), (7, 1))
    image = heatmap(scale_map(ramp), Placement.on(RESIZE, 640, 480), "viridis")
    assert "P" == image.mode
    colours = np.asarray(image.convert("RGB"))[240]
    inside = np.asarray(image)[240] != UNSEEN
    assert COLORMAPS["viridis"][0].tolist() == colours[inside][0].tolist()
    assert COLORMAPS["viridis"][255].tolist() == colours[inside][-1].tolist()
    assert image.convert("RGBA").getpixel((0, 0))[3] == 0  # type: ignore[index]


def test_overlay_is_a_blend_inside_and_the_photo_outside() -> None:
    """Inside: photo × (1 − opacity) + colour × opacity, clipped; outside: the photo."""
    decoded, scaled = photo(640, 480), scale_map(RANDOM.random((7, 7)))
    placement = Placement.on(RESIZE, 640, 480)
    shown = np.asarray(overlay(decoded.image, scaled, placement, 0.4, "jet")).astype(float)
    colours = np.asarray(heatmap(scaled, placement, "jet").convert("RGB")).astype(float)
    _, seen = place_map(scaled.grid, placement)
    assert np.abs(shown[seen] - (0.6 * 128 + 0.4 * colours[seen])).max() <= 1
    assert (shown[~seen] == 128).all()
    assert (128, 128, 128) == decoded.image.getpixel((320, 240))


def test_unknown_colormap_is_refused() -> None:
    """With the names there are."""
    with pytest.raises(InvalidOption, match="turbo"):
        heatmap(scale_map(peak(1, 1)), Placement.on(RESIZE, 64, 64), "rainbow")


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("view", ["overlay", "gradcam", "attention", "panel"])
@pytest.mark.parametrize("media_type", ["image/png", "image/webp", "image/jpeg"])
@pytest.mark.parametrize("size", [(640, 480), (31, 97), (1, 1), (900, 3)])
def test_every_view_in_every_form(view: View, media_type: str, size: tuple[int, int]) -> None:
    """Each is a file of its type, in the photo's size except for the panel."""
    data = render_view(
        photo(*size),
        RESIZE,
        view=view,
        gradcam=peak(3, 3),
        attention=RANDOM.random((7, 7)),
        caption="Geococcyx",
        probability=0.93,
        media_type=media_type,
    )
    image = Image.open(io.BytesIO(data))
    assert media_type == Image.MIME[str(image.format)]
    if view != "panel":
        assert size == image.size
    if view in ("gradcam", "attention") and media_type == "image/png":
        assert "P" == image.mode


def test_panel_without_attention_has_two_pictures() -> None:
    """An arm without a map shows the photo and Grad-CAM."""
    wide, narrow = (
        Image.open(
            io.BytesIO(render_view(photo(300, 300), RESIZE, view="panel", gradcam=peak(1, 1), attention=attention))
        )
        for attention in (peak(2, 2), None)
    )
    assert pytest.approx(1.5, abs=0.02) == wide.width / narrow.width


def test_panel_stands_any_text() -> None:
    """Labels may be long, or in a script that the font has not."""
    for caption in ("", "a very long name " * 30, "Citroën 2CV – жук 鳥"):
        data = render_view(photo(80, 60), RESIZE, view="panel", gradcam=peak(1, 1), caption=caption, question=caption)
        assert Image.open(io.BytesIO(data)).size[0] > 160


def test_layer_is_an_rgba_data_url() -> None:
    """Opaque where the network looked, transparent elsewhere, in the original's size."""
    url = render_layer(peak(3, 3), RESIZE, 640, 480)
    head, _, body = url.partition(",")
    assert "data:image/png;base64" == head
    layer = Image.open(io.BytesIO(base64.b64decode(body)))
    assert ("RGBA", (640, 480)) == (layer.mode, layer.size)
    alpha = np.asarray(layer)[:, :, 3]
    assert {0, 255} == set(np.unique(alpha).tolist())
    assert (255, 0) == (alpha[240, 320], alpha[0, 0])


@pytest.mark.parametrize("size", [(640, 480), (2000, 1500), (3, 700), (1, 1)])
def test_layer_equals_the_heatmap(size: tuple[int, int]) -> None:
    """The layer written in strips has the heatmap's colours, and none where the network did not look."""
    grid = RANDOM.random((7, 7))
    layer = np.asarray(Image.open(io.BytesIO(base64.b64decode(render_layer(grid, RESIZE, *size).partition(",")[2]))))
    placement = Placement.on(RESIZE, *size)
    expected = np.asarray(heatmap(scale_map(grid), placement).convert("RGB"))
    _, seen = place_map(scale_map(grid).grid, placement)
    # Strips begin elsewhere, so the last bit of a value may round to the neighbouring colour.
    assert (expected[seen] == layer[seen][:, :3]).all(axis=1).mean() > 0.999
    assert np.array_equal(np.where(seen, 255, 0), layer[:, :, 3])


def test_huge_pictures_need_a_size() -> None:
    """An original of fifty megapixels is not drawn in full; smaller pictures of it are."""
    with pytest.raises(TooManyPixels, match="`size`"):
        render_layer(peak(1, 1), RESIZE, 8000, 6000)
    with pytest.raises(TooManyPixels, match="`size`"):
        render_view(
            DecodedImage(Image.new("RGB", (8, 6)), 8000, 6000, "JPEG", 1000), RESIZE, view="overlay", gradcam=peak(1, 1)
        )
    assert render_layer(peak(1, 1), RESIZE, 8000, 6000, size=64)


def test_missing_map_is_refused() -> None:
    """A view of a map that the model has not."""
    with pytest.raises(InvalidOption, match="no attention map"):
        render_view(photo(8, 8), RESIZE, view="attention", gradcam=peak(1, 1))


def test_formats_have_a_longest_side() -> None:
    """WebP ends at 16,383 pixels."""
    with pytest.raises(InvalidOption, match="16383"):
        render_view(photo(17000, 2), RESIZE, view="gradcam", gradcam=peak(1, 1), media_type="image/webp")


def test_unknown_form_is_refused() -> None:
    """Only what `/explain` offers."""
    with pytest.raises(InvalidOption):
        encode(Image.new("RGB", (1, 1)), "image/tiff")
