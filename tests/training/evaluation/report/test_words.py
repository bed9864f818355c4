"""How figures are written, and when the report says that it is sure."""

import pytest

from training.evaluation.figures import Figure
from training.evaluation.report.words import certainty, hundredths, interval, map_name, number, shown, stated


def test_a_figure_is_written_with_interval_and_photos() -> None:
    """In percent, or as a number; a negative end is not taken for a dash."""
    assert shown(Figure(0.809, 0.782, 0.833, 911)) == "80.9%, 78.2–83.3, n = 911"
    assert shown(Figure(0.1118, -0.012, 0.2, 9), percent=False) == "0.112, −0.012 to 0.200, n = 9"
    assert interval(Figure(float("nan"), float("nan"), float("nan"), 0)) == "–––"
    assert number(float("nan")) == "–"


@pytest.mark.parametrize(
    ("probability", "word"), [(0.9, "sure"), (0.8999, "leaning"), (0.5, "leaning"), (0.49, "unsure")]
)
def test_sure_is_said_only_where_it_is(probability: float, word: str) -> None:
    """From 90% calibrated probability; less is not rounded up to it."""
    assert certainty(probability) == word
    assert (float(stated(probability).rstrip("%")) >= 90) == (word == "sure")


def test_maps_have_names() -> None:
    """Known ones, differences of two, and any other."""
    assert map_name("gradcam") == "Grad-CAM"
    assert map_name("gradcam_minus_centred_gaussian") == "Grad-CAM minus centred Gaussian"
    assert map_name("some_other") == "some other"


def test_an_unknown_share_is_not_none() -> None:
    """Nobody said is not nobody saw."""
    assert [hundredths(share) for share in (0.0, 0.256, float("nan"))] == ["0", "26", "?"]
