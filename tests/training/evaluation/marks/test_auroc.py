"""Areas of the marks against scipy's rank statistic, and figures whose answer is known."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from training.evaluation.figures import RESAMPLES
from training.evaluation.marks.auroc import LeftOut, auroc_figures, left_out_figures, mark_areas, product

TABLE = np.array([[0.9, 0.1, 0.2], [0.8, 0.7, 0.2], [0.0, 0.6, np.nan], [0.1, 0.0, 0.4]])
"""Class × mark: nobody sees the third mark often enough."""
LABELS = np.repeat(np.arange(4), 25)


def test_area_is_the_rank_statistic() -> None:
    """Also with equal scores, and with an unknown class left out."""
    scores = np.random.default_rng(0).integers(0, 8, (100, 3)) / 8
    truth = TABLE[LABELS].copy()
    truth[LABELS == 3, 1] = np.nan
    found = mark_areas(scores, truth)
    for mark in (0, 1):
        positive, negative = scores[truth[:, mark] >= 0.5, mark], scores[truth[:, mark] < 0.5, mark]
        expected = mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative))
        assert found[mark] == pytest.approx(expected)
    assert np.isnan(found[2]), "no class has the third mark"


def test_noise_is_a_half_and_the_truth_one() -> None:
    """A score that follows the table is perfect, as is the product of certain classes; noise is near one half."""
    certain = np.eye(4)[LABELS]
    noise = np.random.default_rng(1).random((100, 3))
    figures = auroc_figures(noise, certain, TABLE, LABELS)
    assert figures["mark_auroc"].low < 0.5 < figures["mark_auroc"].high
    assert (figures["mark_auroc_product"].value, figures["mark_auroc_product"].n) == (1, 100)
    assert figures["mark_auroc_minus_product"].high < 0
    perfect = auroc_figures(np.nan_to_num(TABLE)[LABELS], certain, TABLE, LABELS)
    assert perfect["mark_auroc"].value == 1
    assert perfect["mark_auroc_minus_product"].value == 0


def test_resampled_photos_count_as_often_as_they_are_drawn() -> None:
    """The interval is that of sorting every resample anew."""
    rng = np.random.default_rng(2)
    scores = np.round(rng.random((100, 3)) + 0.3 * np.nan_to_num(TABLE)[LABELS], 1)
    figure = auroc_figures(scores, np.eye(4)[LABELS], TABLE, LABELS)["mark_auroc"]
    draws = np.random.default_rng(0)
    areas = []
    for _ in range(RESAMPLES):
        chosen = draws.integers(100, size=100)
        areas.append(np.nanmean(mark_areas(scores[chosen], TABLE[LABELS[chosen]])))
    low, high = np.quantile(areas, [0.025, 0.975]) - (np.mean(areas) - figure.value)
    assert (figure.low, figure.high) == pytest.approx((low, high))


def test_product_is_the_expected_share() -> None:
    """Probabilities times the table; an unknown share counts as 0."""
    np.testing.assert_allclose(product(np.array([[0.5, 0, 0.5, 0]]), TABLE), [[0.45, 0.35, 0.1]])


def test_left_out_classes_are_told_by_seeing_alone() -> None:
    """Of new classes the table of the kept ones says nothing: seeing wins over two splits, n counts their photos."""
    rng = np.random.default_rng(3)
    truth = TABLE[LABELS][:, :2]
    seen = [truth + 0.3 * rng.normal(size=truth.shape) for _ in range(2)]
    splits = [LeftOut(each, rng.dirichlet(np.ones(5), 100), rng.random((5, 2)), truth, LABELS) for each in seen]
    figures = left_out_figures(splits)
    assert figures["left_out_auroc"].n == 200
    assert figures["left_out_auroc"].low > 0.9
    assert 0.3 < figures["left_out_auroc_product"].value < 0.7
    assert figures["left_out_auroc_minus_product"].low > 0


def test_photos_of_a_class_are_drawn_together() -> None:
    """All photos of a class say the same: a hundred of them know no more of other classes than one does."""
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(10), 20)
    truth, seen = (np.arange(10) % 2)[labels, None].astype(float), rng.random((10, 1))[labels]
    probabilities, kept = np.ones((200, 1)), np.ones((1, 1))
    by_class, by_photo, single = (
        left_out_figures([LeftOut(seen[chosen], probabilities[chosen], kept, truth[chosen], drawn)])["left_out_auroc"]
        for chosen, drawn in (
            (np.arange(200), labels),
            (np.arange(200), np.arange(200)),
            (np.arange(0, 200, 20), np.arange(10)),
        )
    )
    assert by_class.high - by_class.low > 2 * (by_photo.high - by_photo.low)
    assert (by_class.value, by_class.low, by_class.high) == pytest.approx((single.value, single.low, single.high))
    assert (by_class.n, single.n) == (200, 10)
