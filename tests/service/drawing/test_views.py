"""Every view is one file of the requested type and size."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from service.drawing.maps import scale_map
from service.drawing.views import View, render_layer, render_view
from service.errors import InvalidOption
from tests.service.drawing.conftest import RESIZE, peak, photo

RANDOM = np.random.default_rng(5)


@pytest.mark.parametrize("view", ["overlay", "gradcam", "attention", "panel"])
@pytest.mark.parametrize("media_type", ["image/png", "image/webp", "image/jpeg"])
@pytest.mark.parametrize("size", [(640, 480), (31, 97), (1, 1), (900, 3)])
def test_every_view_in_every_type(view: View, media_type: str, size: tuple[int, int]) -> None:
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


def test_layer_is_an_rgba_data_url() -> None:
    """A layer is opaque inside the network's crop, transparent elsewhere, in the original's size."""
    url = render_layer(scale_map(peak(3, 3), RESIZE.crop), RESIZE, 640, 480)
    head, _, body = url.partition(",")
    assert "data:image/png;base64" == head
    layer = Image.open(io.BytesIO(base64.b64decode(body)))
    assert ("RGBA", (640, 480)) == (layer.mode, layer.size)
    alpha = np.asarray(layer)[:, :, 3]
    assert {0, 255} == set(np.unique(alpha).tolist())
    assert (255, 0) == (alpha[240, 320], alpha[0, 0])


def test_missing_map_is_refused() -> None:
    """A view of a map that the model lacks is refused."""
    with pytest.raises(InvalidOption, match="no attention map"):
        render_view(photo(8, 8), RESIZE, view="attention", gradcam=peak(1, 1))
