"""Paired comparison: what is known is found exactly, and the interval holds as often as it says."""

import math

import numpy as np
import pytest
from scipy import stats

from training.pairs import (
    Difference,
    Variances,
    by_photo,
    by_seed,
    differences,
    mcnemar,
    mean_of,
    mean_over_both,
    resampled_means,
)

TABLE = {"plain": {0: 0.80, 1: 0.82, 2: 0.81}, "guided": {0: 0.83, 1: 0.85, 2: 0.845}, "se": {0: 0.80, 2: 0.83}}
SEEDS, PHOTOS = 5, 400


def noise(seeds: int = SEEDS, photos: int = PHOTOS) -> np.ndarray:
    """Return values (S, n) that vary by seed, by photo and by both."""
    rng = np.random.default_rng(1)
    return rng.normal(0, 0.3, (seeds, 1)) + rng.normal(0, 2, (1, photos)) + rng.normal(0, 1, (seeds, photos))


def right(share: float, seed: int = 0, photos: int = PHOTOS) -> np.ndarray:
    """Return whether photos are named rightly, at random, (n,)."""
    return np.random.default_rng(seed).random(photos) < share


def test_differences_are_paired_by_seed() -> None:
    """Only common seeds count; the interval is Student's (checked against scipy.stats.ttest_rel)."""
    found = by_seed("guided", "plain", TABLE)
    assert found is not None
    assert found.mean == pytest.approx(0.031667, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((0.0244955, 0.0388378), abs=1e-6)
    other = by_seed("se", "plain", TABLE)
    assert other is not None
    assert other.seeds == 2


@pytest.mark.parametrize(
    ("low", "high", "seeds", "expected"),
    [
        (-0.01, 0.03, 3, "contains zero: no difference shown"),
        (0.0, 0.03, 3, "contains zero: no difference shown"),
        (0.01, 0.03, 3, "better"),
        (-0.03, -0.01, 3, "worse"),
        (math.nan, math.nan, 1, "one seed: no interval"),
    ],
)
def test_the_verdict_says_plainly_what_was_shown(low: float, high: float, seeds: int, expected: str) -> None:
    """An interval that contains zero shows nothing."""
    assert expected == Difference("guided", "plain", seeds, (low + high) / 2, low, high).verdict()


def test_mean_squares_are_those_of_an_analysis_of_variance() -> None:
    """Sums of squares between seeds, between photos and of the rest add up, and the definitions hold."""
    values = noise()
    found = Variances.measured(values)
    total = ((values - values.mean()) ** 2).sum()
    parts = found.of_seeds * (SEEDS - 1) + found.of_photos * (PHOTOS - 1) + found.of_rest * (SEEDS - 1) * (PHOTOS - 1)
    assert total == pytest.approx(parts)
    assert found.of_seeds == pytest.approx(PHOTOS * values.mean(axis=1).var(ddof=1))


def test_the_bootstrap_counts_noise_three_times_and_the_rest_once() -> None:
    """Its variance is (MS(seeds) + MS(photos) + MS(rest)) / Sn, of which the interval takes two MS(rest) off."""
    values = noise()
    found = Variances.measured(values)
    means = resampled_means(values, 20_000)
    expected = (found.of_seeds + found.of_photos + found.of_rest) / values.size
    assert expected == pytest.approx(means.var(), rel=0.04)
    assert values.mean() == pytest.approx(means.mean(), abs=4 * means.std() / math.sqrt(len(means)))


def test_where_seeds_alone_matter_the_interval_is_students_over_seeds() -> None:
    """Every photo alike: as many degrees of freedom as seeds less one."""
    shares = np.array([0.3, 0.5, 0.2, 0.7, 0.4])
    found = mean_over_both(np.repeat(shares[:, None], PHOTOS, axis=1))
    low, high = stats.t.interval(0.95, 4, shares.mean(), shares.std(ddof=1) / math.sqrt(5))
    assert (low, high) == pytest.approx((found.low, found.high), rel=0.05)


def test_where_photos_alone_matter_the_interval_is_students_over_photos() -> None:
    """Every seed alike: more seeds add no information."""
    row = right(0.8).astype(float)
    found = mean_over_both(np.repeat(row[None], 4, axis=0))
    low, high = stats.t.interval(0.95, PHOTOS - 1, row.mean(), row.std(ddof=1) / math.sqrt(PHOTOS))
    assert (low, high) == pytest.approx((found.low, found.high), rel=0.01)
    assert found.n == PHOTOS


def test_what_is_always_the_same_is_certain() -> None:
    """An arm that is right where the other never is: one, without doubt; an arm against itself: zero."""
    everything = {0: np.ones(9, bool), 1: np.ones(9, bool)}
    nothing = {0: np.zeros(9, bool), 1: np.zeros(9, bool)}
    found = by_photo("a", "b", {"a": everything, "b": nothing})
    assert found is not None
    assert (found.mean, found.low, found.high) == (1, 1, 1)
    assert (found.won, found.lost, found.p, found.verdict()) == (18, 0, 2 / 2**9, "better")
    same = by_photo("a", "b", {"a": everything, "b": everything})
    assert same is not None
    assert (same.mean, same.low, same.high, same.p, same.seeds_for_aim) == (0, 0, 0, 1, 2)


@pytest.mark.parametrize(("seeds", "of_seed"), [(3, 0.0), (3, 0.2), (10, 0.05), (10, 0.2)])
def test_the_interval_holds_as_often_as_it_says(seeds: int, of_seed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two arms that are equally good, trained and tested anew 300 times: 95% of the intervals contain zero."""
    monkeypatch.setattr("training.pairs.RESAMPLES", 250)
    rng, photos, held = np.random.default_rng(0), 150, 0
    for _ in range(300):
        question = rng.normal(1, 1.2, photos)  # how easy each photo is, for both arms
        arms = [
            question
            + rng.normal(0, 0.7, photos)  # and for one of them
            + rng.normal(0, of_seed, (seeds, 1))
            + rng.normal(0, 0.8, (seeds, photos))
            > 0
            for _ in range(2)
        ]
        found = mean_over_both(arms[0].astype(float) - arms[1])
        held += found.low <= 0 <= found.high
    assert 0.92 <= held / 300 <= 0.99


def test_mcnemar_with_one_seed_is_the_binomial_test_of_discordant_pairs() -> None:
    """Pairs on which both are right, or wrong, say nothing."""
    ours, theirs = right(0.8, 1), right(0.7, 2)
    won, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    found = by_photo("a", "b", {"a": {0: ours}, "b": {0: theirs}})
    assert found is not None
    assert stats.binomtest(won, won + lost).pvalue == found.p == found.p_of_seeds[0]
    assert (found.won, found.lost) == (won, lost)
    assert math.isnan(found.low)
    assert found.verdict() == "one seed: no interval"


def test_mcnemar_counts_a_photo_once_however_many_seeds_there_are() -> None:
    """The same answers again are no evidence; a photo goes to the arm that is right more often."""
    differences = np.array([1, 1, 1, 1, 1, -1, 0, 0])
    assert stats.binomtest(5, 6).pvalue == mcnemar(differences) == mcnemar(np.tile(differences, (7, 1)))
    drawn = np.array([[1, 1, 0], [-1, 1, 0], [0, -1, 1]])
    assert stats.binomtest(2, 2).pvalue == mcnemar(drawn)


def test_the_number_of_seeds_needed_follows_from_the_variances() -> None:
    """The formula of the docstring, written out; none where photos alone are too few."""
    found = Variances(seeds=10, photos=900, of_seeds=0.6, of_photos=0.14, of_rest=0.12)
    of_seed, of_photo = (0.6 - 0.12) / 900, (0.14 - 0.12) / 10

    def half(seeds: int) -> float:
        variance = of_seed / seeds + of_photo / 900 + 0.12 / (seeds * 900)
        squares = 900 * of_seed + 0.12, seeds * of_photo + 0.12, 0.12
        total = squares[0] + squares[1] - squares[2]
        parts = squares[0] ** 2 / (seeds - 1) + squares[1] ** 2 / 899 + squares[2] ** 2 / ((seeds - 1) * 899)
        return float(stats.t.ppf(0.975, total**2 / parts)) * math.sqrt(variance)

    needed = found.seeds_for(0.01)
    assert needed is not None
    assert half(needed) <= 0.01 < half(needed - 1)
    assert half(7) == pytest.approx(found.half_width(7))
    assert found.seeds_for(1.9 * math.sqrt(of_photo / 900)) is None


def test_every_arm_is_set_against_plain_and_every_control() -> None:
    """By photo where both have predictions of every seed, else by seed; no pair is in it twice."""
    values = {"plain": {0: 0.8, 1: 0.7}, "unguided": {0: 0.8, 1: 0.8}, "guided": {0: 0.9, 1: 0.8, 2: 0.7}}
    known = {arm: {seed: right(share) for seed, share in values[arm].items()} for arm in ("plain", "guided")}
    found = differences(values, known)
    expected = [("unguided", "plain", 0), ("guided", "plain", PHOTOS), ("guided", "unguided", 0)]
    assert expected == [(pair.arm, pair.against, pair.photos) for pair in found]
    assert (None, "seed") == (found[0].to_dict()["mcnemar_p"], found[0].to_dict()["paired_by"])
    assert "seed and photo" == found[1].to_dict()["paired_by"]
    controls = {"guided-uniform": {0: 0.5}, "unguided": {0: 0.5}}
    assert [("guided-uniform", "unguided")] == [(pair.arm, pair.against) for pair in differences(controls, {})]


def test_a_mean_is_over_photos_too_where_every_seed_has_predictions() -> None:
    """Otherwise Student's over seeds; of one seed there is none."""
    rows = {seed: right(0.8, seed) for seed in range(3)}
    values = {seed: float(row.mean()) for seed, row in rows.items()}
    both, seeds = mean_of(values, rows), mean_of(values, {0: rows[0]})
    assert both.value == pytest.approx(seeds.value)
    assert (both.n, seeds.n) == (PHOTOS, 3)
    assert math.isnan(mean_of({0: 0.5}, {}).low)


def test_photos_that_do_not_count_in_some_run_are_left_out() -> None:
    """Such as the contrast of a photo that one of the networks names wrongly; no McNemar of what is not yes or no."""
    values = np.linspace(0, 1, 10)
    holes = np.where(np.arange(10) < 4, np.nan, values + 0.25)
    found = by_photo("a", "b", {"a": {0: holes, 1: values + 0.25}, "b": {0: values, 1: values}}, "contrast_score")
    assert found is not None
    assert (found.mean, found.low, found.photos, found.metric) == (0.25, 0.25, 6, "contrast_score")
    assert math.isnan(found.p)
    assert by_photo("a", "b", {"a": {0: holes * np.nan}, "b": {0: values}}) is None
