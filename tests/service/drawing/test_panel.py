"""The panel with any text and any number of maps."""

import io

import pytest
from PIL import Image

from service.drawing.views import render_view
from tests.service.drawing.conftest import RESIZE, peak, photo


def test_panel_without_attention_has_two_pictures() -> None:
    """An arm without a map shows the photo and Grad-CAM."""
    wide, narrow = (
        Image.open(
            io.BytesIO(render_view(photo(300, 300), RESIZE, view="panel", gradcam=peak(1, 1), attention=attention))
        )
        for attention in (peak(2, 2), None)
    )
    assert pytest.approx(1.5, abs=0.02) == wide.width / narrow.width


def test_panel_with_any_text() -> None:
    """Labels may be long, or in a script that the font lacks."""
    for caption in ("", "a very long name " * 30, "Citroën 2CV – жук 鳥"):
        data = render_view(photo(80, 60), RESIZE, view="panel", gradcam=peak(1, 1), caption=caption, question=caption)
        assert Image.open(io.BytesIO(data)).size[0] > 160
