"""The report: its photos, its escaping, and its diagram."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model.contract.geometry import Resize
from training.data.samples import Dataset
from training.evaluation.evaluate import Evaluation
from training.evaluation.report import choose, reliability_bars, write_report

Evaluate = Callable[..., Evaluation]


@pytest.fixture
def evaluation(birds: Dataset) -> Evaluate:
    """Return a function that makes the evaluation of the test photos with some logits."""

    def make(logits: np.ndarray, attention: bool) -> Evaluation:
        maps = np.random.default_rng(0).random((len(birds.test), 3, 3)).astype(np.float32)
        boxes = np.full((len(birds.test), 4), np.nan, np.float32)
        boxes[0] = (5, 5, 20, 20)
        names = ("<b>Red</b>", "Green & Co", "Blue")
        resize = Resize(size=48, crop=48)
        return Evaluation(
            birds.test,
            logits,
            maps,
            maps if attention else None,
            boxes,
            resize,
            1.0,
            names,
            lambda _: (maps, maps, None),
        )

    return make


@pytest.mark.parametrize("attention", [True, False])
def test_the_report_shows_every_photo_with_its_maps(
    evaluation: Evaluate, birds: Dataset, tmp_path: Path, attention: bool
) -> None:
    """One figure per photo, an image per map, the wrong ones with their true class."""
    labels = [sample.label for sample in birds.test]
    logits = 5 * np.eye(3)[labels]
    logits[0] = (0, 0, 5)
    write_report(evaluation(logits, attention), {"top1": 5 / 6, "nll": 0.51239}, "run & data", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<figure>") == len(birds.test)
    assert page.count("data:image/jpeg;base64,") == len(birds.test) * (3 if attention else 2)
    assert page.count('class="wrong"') == 1
    assert "<small>is &lt;b&gt;Red&lt;/b&gt;</small>" in page
    assert "<td>&lt;b&gt;Red&lt;/b&gt;</td><td>Blue</td><td>1</td>" in page
    assert "83.3%" in page
    assert "0.5124" in page
    assert "<title>run &amp; data</title>" in page
    assert "<script" not in page
    assert "http" not in page


def test_a_report_without_errors_has_an_empty_gallery(evaluation: Evaluate, birds: Dataset, tmp_path: Path) -> None:
    """It says None, and lists no confused classes."""
    logits = 5 * np.eye(3)[[sample.label for sample in birds.test]]
    write_report(evaluation(logits, False), {}, "run", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<p>None.</p>" in page
    assert "<td>" not in page


def test_the_most_confident_errors_come_first() -> None:
    """And the right ones from the most to the least confident."""
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    assert choose(probabilities, np.array([1, 1, 1, 1])) == ([1, 0], [2, 3])


def test_the_diagram_has_a_bar_for_each_bin_of_confidence() -> None:
    """With the number of its photos and their accuracy."""
    probabilities = np.array([[0.99, 0.01], [0.98, 0.02], [0.55, 0.45]])
    bars = reliability_bars(probabilities, np.array([0, 1, 0]))
    assert [(bar["count"], bar["accuracy"]) for bar in bars] == [(1, 1.0), (2, 0.5)]
