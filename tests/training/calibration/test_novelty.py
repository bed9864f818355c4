"""The scale of novelty: means that do not depend on how many photos they are of, folds on one scale, a threshold."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from model.explain.embedding import Embedding, PrincipalAxes
from model.explain.novelty import METHOD, NoveltyFit, NoveltyScore
from training.calibration.embedding import embedding_axes
from training.calibration.novelty import class_means, fit_novelty
from training.calibration.outputs import Outputs

CLASSES, CHANNELS, MOST = 5, 60, 20


def _outputs(count: int, folds: int, seed: int = 0) -> Outputs:
    """Return answers for photos that scatter about their classes."""
    rng, classes = np.random.default_rng(seed), np.random.default_rng(9).random((CLASSES, CHANNELS))
    labels = np.arange(count) % CLASSES
    pooled = classes[labels] ** 2 * rng.gamma(2, size=(count, CHANNELS))
    logits = rng.normal(size=(count, CLASSES)) + 4 * np.eye(CLASSES)[labels]
    fold = np.arange(count) // CLASSES % folds + 1 if folds else np.zeros(count, np.int64)
    names = np.array([str(index) for index in range(count)])
    return Outputs(logits, pooled, np.zeros((count, 0)), labels, fold, names, names)


def _score(fit: NoveltyFit, axes: PrincipalAxes, asked: Outputs) -> torch.Tensor:
    logits, pooled = (torch.from_numpy(part).float() for part in (asked.logits, asked.pooled))
    return NoveltyScore(fit)(logits, pooled, Embedding(axes).outside(pooled))


def _fit(trained: Outputs, *answered: tuple[Outputs, Outputs]) -> tuple[NoveltyFit | None, PrincipalAxes]:
    axes = embedding_axes(trained.pooled, MOST)
    return fit_novelty(trained, axes, [(own, embedding_axes(own.pooled, MOST), held) for own, held in answered]), axes


def test_few_photos_give_means_as_long_as_many() -> None:
    """The cosine to the mean of three photos is that to the mean of a thousand, on average."""
    rng = np.random.default_rng(0)

    def drawn(count: int) -> np.ndarray:
        vectors = 1 + rng.normal(size=(count, CHANNELS))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    asked, one = drawn(500), np.zeros(1000, np.int64)
    many = (asked @ class_means(drawn(1000), one, 1).T).mean()
    few = np.mean([(asked @ class_means(drawn(3), one[:3], 1).T).mean() for _ in range(200)])
    assert many == pytest.approx(few, abs=0.01)


@pytest.mark.parametrize("folds", [0, 3])
def test_the_threshold_accepts_95_percent_of_new_photos(folds: int) -> None:
    """Of a run with folds, and of one with a held-out slice."""
    held = _outputs(600, folds, seed=1)
    fit, axes = _fit(_outputs(900, 0), *((_outputs(600, 0, seed=3 + k), held.of_fold(k)) for k in np.unique(held.fold)))
    assert fit is not None
    assert (METHOD, 600) == (fit.facts.method, fit.facts.num_photos)
    assert sorted(fit.facts.quantiles) == list(fit.facts.quantiles)
    accepted = (_score(fit, axes, _outputs(2000, 0, seed=2)) <= fit.facts.threshold).float().mean()
    assert float(accepted) == pytest.approx(0.95, abs=0.02)


def test_folds_are_set_on_one_scale() -> None:
    """A fold whose network has other channels, and logits of another scale, has the same quantiles."""
    trained, own, held = _outputs(300, 0), _outputs(600, 0, seed=3), _outputs(600, 3, seed=1)
    order = np.random.default_rng(0).permutation(CHANNELS)

    def another(outputs: Outputs) -> Outputs:
        return replace(outputs, logits=7 * outputs.logits + 3, pooled=outputs.pooled[:, order])

    alike = [(own, held.of_fold(k)) for k in (1, 2, 3)]
    apart = [alike[0], tuple(map(another, alike[1])), alike[2]]
    found = [_fit(trained, *pairs)[0] for pairs in (alike, apart)]  # type: ignore[arg-type]
    assert found[0] is not None
    assert found[1] is not None
    np.testing.assert_allclose(found[0].facts.quantiles, found[1].facts.quantiles)


def test_a_short_vector_has_nothing_outside() -> None:
    """An embedding that leaves the vector as it is adds nothing, and the other two make the score."""
    trained, held = _outputs(300, 0), _outputs(100, 0, seed=1)
    whole = embedding_axes(trained.pooled)
    fit = fit_novelty(trained, whole, [(trained, whole, held)])
    assert fit is not None
    assert fit.scale[2] == 0
    assert (fit.scale[:2] > 0).all()


def test_few_photos_have_no_novelty() -> None:
    """Nineteen have no 95% quantile."""
    trained, held = _outputs(300, 0), _outputs(40, 0, seed=1)
    few = Outputs(**{each.name: getattr(held, each.name)[:19] for each in fields(Outputs)})
    assert _fit(trained, (trained, few))[0] is None
