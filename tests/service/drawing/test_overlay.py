"""A map over a photo, and the photo under it."""

import numpy as np
from PIL import Image

from model.photo.decode import DecodedImage
from service.drawing.maps import Placement, heatmap, scale_map
from service.drawing.overlay import overlay, picture
from tests.service.drawing.conftest import RESIZE, photo, place_map

RANDOM = np.random.default_rng(5)


def test_picture_of_a_reduced_image_has_the_originals_geometry() -> None:
    """A photo decoded at a quarter is enlarged to its original geometry."""
    reduced = Image.new("RGB", (26, 20))
    reduced.paste("white", (13, 0, 26, 20))
    shown = picture(DecodedImage(reduced, 101, 79, "JPEG", scale=4), Placement.on(RESIZE, 101, 79))
    assert (101, 79) == shown.size
    edge = np.asarray(shown)[40, :, 0].astype(int)
    assert abs(int(np.argmax(edge > 127)) - 52) <= 1


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
