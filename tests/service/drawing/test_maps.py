"""Maps are scaled as by pytorch-grad-cam and placed on the network's crop."""

import numpy as np
import pytest

from model.contract.geometry import Resize
from service.drawing.colormaps import COLORMAPS
from service.drawing.maps import UNSEEN, Placement, heatmap, scale_map
from service.errors import InvalidOption
from tests.service.drawing.conftest import RESIZE, display, peak, place_map

RANDOM = np.random.default_rng(5)


@pytest.mark.parametrize("shape", [(7, 7), (14, 14), (10, 10), (3, 5)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_display_equals_pytorch_grad_cam(shape: tuple[int, int], scale: float) -> None:
    """The scaled map equals the peer's, over magnitudes and grids."""
    peer = pytest.importorskip("pytorch_grad_cam.utils.image")
    for _ in range(5):
        values = (RANDOM.standard_normal(shape).clip(0) * scale).astype(np.float32)
        first = peer.scale_cam_image(values[None], (224, 224))
        expected = peer.scale_cam_image(first)[0]
        assert np.abs(display(scale_map(values, 224), 224) - expected).max() < 1e-4


def test_zero_map_stays_zero_and_is_marked() -> None:
    """A map without evidence is not scaled up to noise."""
    scaled = scale_map(np.zeros((7, 7)))
    assert (0.0, 0.0, True) == (scaled.min, scaled.max, scaled.is_zero)
    assert display(scaled, 224).max() == 0


def test_not_a_number_counts_as_zero() -> None:
    """A map of NaN counts as zero."""
    assert scale_map(np.full((7, 7), np.nan)).is_zero


def test_raw_range_is_kept_with_the_map() -> None:
    """Minimum and maximum are those of the raw cells."""
    scaled = scale_map(np.array([[0.5, 0.51], [0.505, 0.512]]))
    assert (0.5, pytest.approx(0.512), True, False) == (scaled.min, scaled.max, scaled.is_flat, scaled.is_zero)
    assert not scale_map(np.array([[0.5, 0.6]])).is_flat


def test_square_image_equals_the_display() -> None:
    """If the network saw the whole image at its own size, nothing is interpolated again."""
    scaled = scale_map(peak(2, 4))
    values, seen = place_map(scaled.grid, Placement.on(Resize(size=224, crop=224), 224, 224))
    assert seen.all()
    assert np.abs(values - display(scaled, 224)).max() <= 0.5 / 254 + 1e-6


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1000, 100), (100, 1000), (301, 299), (5, 4), (3000, 2000)])
@pytest.mark.parametrize("resize", [RESIZE, Resize(mode="stretch", size=256, crop=224)], ids=["shorter", "stretch"])
@pytest.mark.parametrize("cell", [(0, 0), (3, 3), (6, 2)])
def test_map_is_placed_on_the_networks_crop(size: tuple[int, int], resize: Resize, cell: tuple[int, int]) -> None:
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
        # A hot cell at the border reaches the border, so its middle is a quarter cell further out.
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
    """The proportions stay, and the crop is scaled along."""
    placement = Placement.on(RESIZE, 640, 480, 320)
    assert (320, 240) == (placement.width, placement.height)
    assert pytest.approx([value / 2 for value in RESIZE.source_box(640, 480)]) == list(placement.seen)


def test_heatmap_is_a_palette_image_with_the_ends_of_the_table() -> None:
    """The least value has the table's first colour, the greatest its last; pixels outside the crop are transparent."""
    ramp = np.tile(np.linspace(0, 1, 7, dtype=np.float32), (7, 1))
    image = heatmap(scale_map(ramp), Placement.on(RESIZE, 640, 480), "viridis")
    assert "P" == image.mode
    colours = np.asarray(image.convert("RGB"))[240]
    inside = np.asarray(image)[240] != UNSEEN
    assert COLORMAPS["viridis"][0].tolist() == colours[inside][0].tolist()
    assert COLORMAPS["viridis"][255].tolist() == colours[inside][-1].tolist()
    assert image.convert("RGBA").getpixel((0, 0))[3] == 0  # type: ignore[index]


def test_unknown_colormap_is_refused() -> None:
    """The message lists the colormaps."""
    with pytest.raises(InvalidOption, match="turbo"):
        heatmap(scale_map(peak(1, 1)), Placement.on(RESIZE, 64, 64), "rainbow")


def test_cells_at_their_centres() -> None:
    """A map whose cells look at 15, 47, … of 224 pixels peaks at the pixel that its peak's cell looks at."""
    values, size, centres = peak(2, 4), 224, (15.0, 15.0, 32.0, 32.0)
    placed, even = scale_map(values, size, centres), scale_map(values, size)
    shown = display(placed, size)
    row, column = np.unravel_index(shown.argmax(), shown.shape)
    assert pytest.approx((15 + 2 * 32, 15 + 4 * 32), abs=1.5) == (row, column)
    assert (even.min, even.max, even.is_zero) == (placed.min, placed.max, placed.is_zero)
    assert pytest.approx((0, 1), abs=1e-3) == (shown.min(), shown.max())
    shifted = display(scale_map(values, size, (-1.0, -1.0, 32.0, 32.0)), size)
    assert pytest.approx(127, abs=1.5) == np.unravel_index(shifted.argmax(), shifted.shape)[1]


def test_cells_side_by_side_are_at_the_middles_of_their_squares() -> None:
    """Placed at the middles of their squares the cells give the usual picture."""
    values = RANDOM.random((7, 7)).astype(np.float32)
    even, placed = (display(scale_map(values, 224, centres), 224) for centres in (None, (15.5, 15.5, 32.0, 32.0)))
    assert np.abs(even - placed).max() < 0.04
