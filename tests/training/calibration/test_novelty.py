"""The scale of novelty: means that do not depend on how many photos they are of, folds on one scale, a threshold."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from model.explain.novelty import METHOD, NoveltyScore
from training.calibration.novelty import class_means, cosines, cosines_without_itself, fit_novelty
from training.calibration.outputs import Outputs

CLASSES, CHANNELS = 5, 60


def _outputs(count: int, folds: int, seed: int = 0) -> Outputs:
    """Return answers for photos that scatter about their classes."""
    rng, classes = np.random.default_rng(seed), np.random.default_rng(9).random((CLASSES, CHANNELS))
    labels = np.arange(count) % CLASSES
    pooled = classes[labels] ** 2 * rng.gamma(2, size=(count, CHANNELS))
    logits = rng.normal(size=(count, CLASSES)) + 4 * np.eye(CLASSES)[labels]
    fold = np.arange(count) // CLASSES % folds + 1 if folds else np.zeros(count, np.int64)
    names = np.array([str(index) for index in range(count)])
    return Outputs(logits, pooled, np.zeros((count, 0)), labels, fold, names, names)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_few_photos_give_means_as_long_as_many() -> None:
    """The cosine to the mean of three photos is that to the mean of a thousand, on average."""
    rng = np.random.default_rng(0)

    def drawn(count: int) -> np.ndarray:
        return _unit(1 + rng.normal(size=(count, CHANNELS)))

    asked, one = drawn(500), np.zeros(1000, np.int64)
    many = cosines(asked, class_means(drawn(1000), one, 1)).mean()
    few = np.mean([cosines(asked, class_means(drawn(3), one[:3], 1)).mean() for _ in range(200)])
    assert many == pytest.approx(few, abs=0.01)
    assert many == pytest.approx(cosines_without_itself(asked, one[:500], 1).mean(), abs=0.01)


def test_a_photo_does_not_count_in_its_own_mean() -> None:
    """As if its class's mean were made without it; a class of one photo has none."""
    rng = np.random.default_rng(0)
    vectors, labels = _unit(rng.random((9, CHANNELS))), np.array([0, 0, 0, 0, 1, 1, 1, 1, 2])
    found = cosines_without_itself(vectors, labels, 4)
    kept = np.arange(9) != 2
    means = class_means(vectors, labels, 4)
    means[0] = class_means(vectors[kept], labels[kept], 4)[0]
    assert found[2] == pytest.approx(float((vectors[2] @ means.T).max()))
    assert [8] == np.flatnonzero(np.isnan(found)).tolist()


@pytest.mark.parametrize("folds", [0, 3])
def test_the_threshold_accepts_95_percent_of_new_photos(folds: int) -> None:
    """Of a run with folds, and of one with a held-out slice."""
    fit = fit_novelty(_outputs(300, 0), _outputs(600, folds, seed=1))
    assert fit is not None
    assert (METHOD, 600) == (fit.facts.method, fit.facts.num_photos)
    assert sorted(fit.facts.quantiles) == list(fit.facts.quantiles)
    other = _outputs(2000, 0, seed=2)
    scores = NoveltyScore(fit)(*(torch.from_numpy(part).float() for part in (other.logits, other.pooled)))
    assert float((scores <= fit.facts.threshold).float().mean()) == pytest.approx(0.95, abs=0.02)


def test_folds_are_set_on_one_scale() -> None:
    """A fold whose network has other channels, and logits of another scale, has the same quantiles."""
    held = _outputs(600, 3, seed=1)
    other = held.fold == 2
    logits, pooled = held.logits.copy(), held.pooled.copy()
    logits[other] = 7 * logits[other] + 3
    pooled[other] = pooled[other][:, np.random.default_rng(0).permutation(CHANNELS)]
    found = [fit_novelty(_outputs(300, 0), each) for each in (held, replace(held, logits=logits, pooled=pooled))]
    assert found[0] is not None
    assert found[1] is not None
    np.testing.assert_allclose(found[0].facts.quantiles, found[1].facts.quantiles)


def test_few_photos_have_no_novelty() -> None:
    """Nineteen have no 95% quantile; where every photo is the only one of its class, none can be compared."""
    held = _outputs(40, 0, seed=1)
    few = Outputs(**{each.name: getattr(held, each.name)[:19] for each in fields(Outputs)})
    assert fit_novelty(_outputs(300, 0), few) is None
    assert fit_novelty(_outputs(300, 0), replace(held, fold=np.arange(40) // CLASSES + 1)) is None
