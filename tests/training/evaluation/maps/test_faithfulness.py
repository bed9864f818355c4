"""Faithfulness: equal to torchcam's on the same network and maps, and right where the truth is known."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import service
from model.contract.graph import codes_of_best, feeds, no_mark
from model.contract.manifest import Manifest
from training.data.store import as_served
from training.evaluation.maps.chance import chance_maps
from training.evaluation.maps.classifier import Classifier, classifier_of
from training.evaluation.maps.faithfulness import (
    SHARES,
    area,
    blurred,
    dimmed,
    drop_and_increase,
    faithfulness,
    faithfulness_figures,
    faithfulness_of,
    importance_ranks,
    road,
)
from training.evaluation.maps.localisation import enlarge
from training.fit.job import Job
from training.fit.loop import fit

BUNDLED = Path(service.__file__).parent / "bundled" / "cub50" / "2.onnx"
SIZE = 32
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def normalise(images: Tensor) -> Tensor:
    """Return what the network sees of levels of 255."""
    return (images / 255 - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def small_network() -> nn.Module:
    """Return a network of random weights, even between its four classes for the mean colour and sure for others."""
    torch.manual_seed(4)
    layers = [nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
    last = nn.Linear(32, 4)
    network = nn.Sequential(*layers, nn.Flatten(), last).eval()
    with torch.no_grad():
        last.bias -= network(torch.zeros(1, 3, SIZE, SIZE))[0]
    return network


def probabilities_of(logits: Tensor) -> Tensor:
    """Return probabilities at a temperature at which random weights are sure."""
    return (20 * logits).softmax(1)


def classifier_with(network: nn.Module) -> Classifier:
    """Return a classifier of levels of 255."""

    def classify(images: Tensor) -> np.ndarray:
        with torch.no_grad():
            return probabilities_of(network(normalise(images))).numpy()

    return Classifier(classify, tuple(255 * value for value in MEAN))


def noise(count: int) -> Tensor:
    """Return images, uint8, (n, 3, S, S)."""
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class GivenMaps:
    """A map extractor by torchcam's protocol that returns the maps it was given."""

    def __init__(self, network: nn.Module, maps: np.ndarray) -> None:
        self.model = network
        self._maps = torch.from_numpy(maps)

    def __call__(self, *_: object, **__: object) -> list[Tensor]:
        return [self._maps.clone()]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        """Return the only map."""
        return cams[0]

    @contextmanager
    def _hooks_off(self) -> Iterator[None]:
        yield


def scaled(maps: np.ndarray) -> np.ndarray:
    """Return each map scaled to [0, 1], as torchcam's extractors return them."""
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    return (maps - low) / (high - low)


@pytest.mark.parametrize("steps", [7, 8, 16])
@pytest.mark.parametrize("baseline", ["mean", "blurred"])
def test_torchcam_finds_the_same_areas(steps: int, baseline: str) -> None:
    """Deletion and insertion equal torchcam's on the same network, maps, baseline and steps, photo by photo."""
    metrics = pytest.importorskip("torchcam.metrics")
    network, images = small_network(), noise(5).float()
    classify = classifier_with(network).classify
    maps = scaled(chance_maps(5, (5, 5), SIZE)["random"])
    ranks, before = importance_ranks(maps, SIZE), classify(images)
    classes = before.argmax(1)
    changed = images.mean((2, 3), keepdim=True).expand_as(images) if baseline == "mean" else blurred(images)
    for index in range(5):
        one = slice(index, index + 1)

        def score(batch: Tensor, label: int = classes[index]) -> np.ndarray:
            found: np.ndarray = classify(batch)[:, label]
            return found

        ends = score(images[one]), score(changed[one])
        peer = metrics.DeletionInsertionMetric(
            GivenMaps(network, maps[one]),
            probabilities_of,
            steps=steps,
            baseline=normalise(changed[one]),
        )
        peer.update(normalise(images[one]))
        found = peer.summary()
        deletion = area(score, images[one], changed[one], ranks[one], steps, ends)
        insertion = area(score, changed[one], images[one], ranks[one], steps, ends[::-1])
        np.testing.assert_allclose(deletion, found["deletion_auc"], atol=1e-6)
        np.testing.assert_allclose(insertion, found["insertion_auc"], atol=1e-6)


def test_torchcam_finds_the_same_drop_and_increase() -> None:
    """Average drop and increase equal torchcam's, though it multiplies normalised images and we dim levels."""
    metrics = pytest.importorskip("torchcam.metrics")
    # Large patches of colour: dimming some of them makes some photos surer.
    network, images = small_network(), noise(12)[:, :, ::8, ::8].repeat_interleave(8, 2).repeat_interleave(8, 3)
    maps = chance_maps(12, (5, 5), SIZE)["random"]
    peer = metrics.ClassificationMetric(GivenMaps(network, scaled(maps)), probabilities_of)
    peer.update(normalise(images.float()))
    found = faithfulness(classifier_with(network), images, {"random": maps})["random"]
    assert 0 < found["increase"].mean() < 1
    np.testing.assert_allclose(found["increase"].mean(), peer.summary()["conf_increase"], atol=1e-6)
    np.testing.assert_allclose(found["average_drop"].mean(), peer.summary()["avg_drop"], atol=1e-6)


def test_drop_and_increase_are_their_formulas() -> None:
    """max(p - q, 0) / p, and q > p; no change is neither."""
    drop, increase = drop_and_increase(np.array([0.8, 0.5, 0.5, 0.0]), np.array([0.2, 0.6, 0.5, 0.0]))
    np.testing.assert_allclose(drop, [0.75, 0, 0, 0])
    assert [0, 1, 0, 0] == increase.tolist()


def test_area_is_the_trapezoid() -> None:
    """Brightness itself as the score: deleting everything evenly makes a straight line from 1 to 0."""
    images = torch.ones(2, 3, 8, 8)
    ranks = importance_ranks(np.random.default_rng(0).random((2, 8, 8)), 8)

    def score(batch: Tensor) -> np.ndarray:
        return batch.mean((1, 2, 3)).numpy()

    ends = np.ones(2), np.zeros(2)
    np.testing.assert_allclose(area(score, images, 0 * images, ranks, 5, ends), 0.5, atol=1e-6)


def test_ranks_are_those_of_the_enlarged_map() -> None:
    """Zero is the highest pixel; among equal ones the first counts as higher."""
    ranks = importance_ranks(np.array([[[0.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]]), 4)
    assert [[15]] == (ranks[0] == 0).nonzero()[:, :1].mul(4).add((ranks[0] == 0).nonzero()[:, 1:]).tolist()
    assert list(range(16)) == ranks[1].flatten().tolist()


def test_dimming_is_a_product_on_the_networks_input() -> None:
    """Normalised, the dimmed image is the normalised image times the map; a map without contrast leaves nothing."""
    images = noise(2).float()
    maps = np.stack([np.linspace(3, 5, 25).reshape(5, 5), np.full((5, 5), 2.0)])
    found = normalise(dimmed(images, maps, 255 * torch.tensor(MEAN).view(1, 3, 1, 1)))
    weights = torch.from_numpy(enlarge(np.stack([np.linspace(0, 1, 25).reshape(5, 5), np.zeros((5, 5))]), SIZE))
    torch.testing.assert_close(found, weights[:, None] * normalise(images), atol=1e-5, rtol=0)


def test_road_removes_the_shares_it_names() -> None:
    """With everything removed in place of its neighbours' mean the score is of what is kept: counted here."""
    images = torch.full((1, 3, 16, 16), 100.0)
    images[:, :, :8] = 200
    half = np.zeros((1, 16, 16))
    half[:, :8] = np.arange(128).reshape(8, 16) + 1
    ranks = importance_ranks(half, 16)
    bright: list[float] = []

    def score(batch: Tensor) -> np.ndarray:
        bright.append(float((batch > 150).float().mean()))
        return batch.mean((1, 2, 3)).numpy()

    most, least = road(score, images, ranks)
    assert 2 * len(SHARES) == len(bright)
    assert bright[-2] < 0.1  # the bright half went first, its surroundings are dark
    assert most < least


def patch_classifier() -> Classifier:
    """Return a classifier that reads only the bright patch at the upper left: sure where it is a checkerboard."""

    def classify(images: Tensor) -> np.ndarray:
        detail = ((images[:, :, :8, :8].flatten(1).std(1) - 20) / 60).clamp(0, 1)
        return torch.stack([0.05 + 0.9 * detail, 0.95 - 0.9 * detail], 1).numpy()

    return Classifier(classify, tuple(255 * value for value in MEAN))


def test_a_right_map_beats_random_and_its_inverse() -> None:
    """In every measure: of a network that reads one patch, the map of that patch is the truth."""
    images = noise(6) // 4 + 80
    images[:, :, :8, :8] = torch.randint(0, 2, (6, 3, 8, 8), generator=torch.Generator().manual_seed(2)).byte() * 255
    right = np.zeros((6, 4, 4), dtype=np.float32)
    right[:, 0, 0] = 1
    chance = {row: chance_maps(6, (4, 4), SIZE)[row] for row in ("random", "centred_gaussian")}
    values = faithfulness(patch_classifier(), images, {"right": right, "wrong": 1 - right, **chance})
    means = {row: {name: float(numbers.mean()) for name, numbers in each.items()} for row, each in values.items()}
    for row in ("wrong", *chance):
        for low in ("deletion", "road_morf", "average_drop"):
            assert means["right"][low] < means[row][low], (low, row)
        for high in ("insertion", "road_lerf", "road"):
            assert means["right"][high] > means[row][high], (high, row)
        assert means["right"]["increase"] >= means[row]["increase"]
    assert means["wrong"]["road"] < 0 < means["right"]["road"]


def test_figures_have_their_names_and_pairs() -> None:
    """A figure of every measure and row, and of its difference from each row of chance on the same photo."""
    rng = np.random.default_rng(0)
    shared = rng.random(40)
    values = {
        "gradcam": {"deletion": shared - 0.1, "increase": np.ones(40)},
        "random": {"deletion": shared, "increase": np.zeros(40)},
    }
    figures = faithfulness_figures(values)
    expected = {"deletion_gradcam", "deletion_random", "deletion_gradcam_minus_random"}
    assert expected | {name.replace("deletion", "increase") for name in expected} == set(figures)
    pair, alone = figures["deletion_gradcam_minus_random"], figures["deletion_gradcam"]
    assert (-0.1, 40) == (pytest.approx(pair.value), pair.n)
    assert pair.high - pair.low < 0.01 < alone.high - alone.low
    assert figures["increase_gradcam"].low < 1 == figures["increase_gradcam"].high


def test_batches_do_not_matter() -> None:
    """One value a photo, the same whatever stands beside it."""
    classifier, images = classifier_with(small_network()), noise(34)
    maps = chance_maps(34, (5, 5), SIZE)["random"]
    whole = faithfulness(classifier, images, {"a": maps})["a"]
    first = faithfulness(classifier, images[:3], {"a": maps[:3]})["a"]
    for name, values in whole.items():
        assert (34,) == values.shape
        np.testing.assert_allclose(values[:3], first[name], atol=1e-5)


def test_chance_stands_beside_the_maps_of_a_run(make_job: Callable[..., Job]) -> None:
    """Every row has every measure of every photo."""
    job = make_job(optim__epochs=1)
    fit(job)
    images = torch.randint(0, 256, (3, 3, 48, 48), dtype=torch.uint8)
    values = faithfulness_of(job.out, images, {"gradcam": np.eye(2, dtype=np.float32)[None].repeat(3, 0)})
    assert ["gradcam", "random", "centred_gaussian"] == list(values)
    measures = ["deletion", "insertion", "road_morf", "road_lerf", "road", "average_drop", "increase"]
    assert all(measures == list(row) for row in values.values())
    assert all(
        (3,) == numbers.shape and np.isfinite(numbers).all() for row in values.values() for numbers in row.values()
    )


def test_bundled_maps_beat_chance(bird_photos: list[Path]) -> None:
    """The file's Grad-CAM on two birds: what it ranks high is what the network uses."""
    session = onnxruntime.InferenceSession(str(BUNDLED), providers=["CPUExecutionProvider"])
    resize = Manifest.from_metadata(session.get_modelmeta().custom_metadata_map).resize
    pixels = np.stack([as_served(resize).load(path)[0] for path in bird_photos[::500]])
    none = np.full((len(pixels), 1), no_mark(312))
    gradcam = session.run(["gradcam"], feeds(pixels, *codes_of_best(len(pixels), 50), mark=none))[0][:, 0]
    maps = {"gradcam": gradcam, "random": chance_maps(len(pixels), (9, 9), 288)["random"]}
    values = faithfulness(classifier_of(BUNDLED), torch.from_numpy(pixels).permute(0, 3, 1, 2), maps, steps=3)
    assert values["gradcam"]["road"].mean() > values["random"]["road"].mean()
    assert values["gradcam"]["deletion"].mean() < values["random"]["deletion"].mean()
