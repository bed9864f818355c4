"""Fresh weights: a network that has learnt nothing, and maps that change while layers forget."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

import service
from model.export.export import load_network
from model.network.network import Network, NetworkConfig, build_network
from tests.model.networks import make_marked
from training.data.store import as_served
from training.data.transforms import Normalise
from training.evaluation.maps.sanity import (
    cascade,
    cascade_figures,
    gradcam_of,
    layers_from_top,
    randomised,
    rank_correlations,
)

BUNDLED = Path(service.__file__).parent / "bundled" / "cub50" / "2.onnx"


def network_of(backbone: str = "squeezenet1_1", attention: str = "guided", pooling: str = "max") -> Network:
    """Return a small network with random weights."""
    torch.manual_seed(3)
    values = {"backbone": backbone, "attention": attention, "pooling": pooling, "hidden": 16, "num_classes": 5}
    return build_network(NetworkConfig.from_dict(values)).eval()


def photos(count: int, size: int = 64) -> Tensor:
    """Return normalised photos, (n, 3, S, S)."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_layers_are_named_from_the_top() -> None:
    """Head, attention, steps from last to first; what has no weights is no layer."""
    names = layers_from_top(network_of())
    assert ["head", "attention", "backbone.features.12"] == names[:3]
    assert "backbone.features.0" == names[-1]
    assert "backbone.features.1" not in names  # an activation
    plain = layers_from_top(network_of("resnet18", "none"))
    assert ["head", *(f"backbone.{name}" for name in ("layer4", "layer3", "layer2", "layer1", "bn1", "conv1"))] == plain


def test_what_parts_vote_by_is_randomised_with_the_head() -> None:
    """And features are taken from before the first map that the marks read."""
    network = make_marked(backbone="resnet18", mark_places=(1,), mark_values=(1, 2))[0]
    assert ["head", "part_votes", "mark_head", "attention"] == layers_from_top(network)[:4]
    found = cascade(network, photos(6), photos(4), layers=["head", "part_votes", "backbone.layer3"])
    assert ["original", "head", "part_votes", "backbone.layer3"] == list(found)
    assert np.mean(found["backbone.layer3"]) < np.mean(found["head"]) < 1


def test_correlation_starts_at_one_and_falls() -> None:
    """Nothing randomised: 1. All of it: the maps have little to do with each other. Network and photos stay."""
    network, images = network_of("resnet18"), photos(12)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = cascade(network, images, images[:8])
    assert ["original", *layers_from_top(network)] == list(found)
    np.testing.assert_allclose(found["original"], 1)
    assert all((12,) == values.shape for values in found.values())
    assert abs(np.mean(found["backbone.conv1"])) < 0.5
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("backbone", "attention", "pooling"), [("resnet18", "cbam", "avg"), ("squeezenet1_1", "guided", "max")]
)
def test_cached_features_change_nothing(backbone: str, attention: str, pooling: str) -> None:
    """The maps after a layer are those of a network whose upper layers were replaced, computed from the photos."""
    network, images = network_of(backbone, attention, pooling), photos(5)
    layers = layers_from_top(network)[:4]
    found = cascade(network, images, images, layers=layers[-1:])
    assert ["original", layers[-1]] == list(found)
    everything = cascade(network, images, images)
    np.testing.assert_allclose(found[layers[-1]], everything[layers[-1]], atol=1e-6)
    fresh = build_with_seed(network, 0)
    for layer in layers:
        network.get_submodule(layer).load_state_dict(fresh.get_submodule(layer).state_dict())
    with torch.no_grad():
        classes = network_of(backbone, attention, pooling)(images).argmax(1)
    original = gradcam_of(network_of(backbone, attention, pooling), images, classes)
    for layer in layers:
        for norm in network.get_submodule(layer).modules():
            if isinstance(norm, _BatchNorm):
                norm.reset_running_stats()
                norm.momentum = None
                norm.train()
    with torch.no_grad():
        network(images)
    np.testing.assert_allclose(
        rank_correlations(original, gradcam_of(network.eval(), images, classes)), found[layers[-1]], atol=1e-6
    )


def build_with_seed(network: Network, seed: int) -> Network:
    """Return the network whose weights a cascade of this seed takes."""
    torch.manual_seed(seed)
    return build_network(network.config)


def test_map_is_grad_cam_of_the_class() -> None:
    """The same as by differentiating the class's logit by the feature map."""
    network, images = network_of(pooling="avg"), photos(3)
    classes = torch.tensor([4, 0, 2])
    attended = network.forward_features(images)
    features = attended.feature_map.detach().requires_grad_()
    score = network.forward_head(features).gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, features)
    expected = torch.relu((gradient.mean((2, 3), keepdim=True) * features).sum(1)).detach().numpy()
    np.testing.assert_allclose(gradcam_of(network, images, classes), expected, atol=1e-6)


def test_random_weights_are_seeded_and_alive() -> None:
    """The same seed gives the same network; its units are spread as batch norm spreads them; maps are not all zero."""
    network, images = network_of("resnet18"), photos(8)
    one, again, other = randomised(network, images), randomised(network, images), randomised(network, images, seed=1)
    state = one.state_dict()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in state.items())
    assert not torch.equal(state["head.1.weight"], other.state_dict()["head.1.weight"])
    assert not torch.equal(state["head.1.weight"], network.state_dict()["head.1.weight"])
    assert not one.training
    with torch.no_grad():
        inner = one.backbone.bn1(one.backbone.conv1(images))
        logits = one(images)
    assert float(inner.std()) == pytest.approx(1, abs=0.05)
    assert float(logits.std(0).min()) > 0.01
    assert bool((gradcam_of(one, images, logits.argmax(1)).max((1, 2)) > 0).any())


def test_random_state_of_the_caller_stays() -> None:
    """Nobody else's random numbers change."""
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    randomised(network_of_seeded(), photos(2))
    assert torch.equal(expected, torch.rand(1))


def network_of_seeded() -> Network:
    """Return the small network without moving the random state."""
    with torch.random.fork_rng(devices=[]):
        return network_of()


def test_rank_correlation_is_pearsons_of_the_ranks() -> None:
    """Ties share their mean rank; the inverse is -1; what is the same everywhere ranks nothing, or cannot be asked."""
    rng = np.random.default_rng(0)
    one, other = np.maximum(rng.normal(size=(2, 5, 5)), 0)
    expected = np.corrcoef(rankdata(one), rankdata(other))[0, 1]
    maps = np.stack([one, one, one, 0 * one])
    found = rank_correlations(maps, np.stack([other, -one, 0 * one, one]))
    np.testing.assert_allclose(found, [expected, -1, 0, np.nan], atol=1e-12)


def test_bundled_maps_depend_on_what_was_learnt(bird_photos: list[Path]) -> None:
    """On twenty birds the correlation falls from 1 to almost nothing, once neither head nor votes know the classes."""
    network, manifest = load_network(BUNDLED)
    chosen = bird_photos[:: len(bird_photos) // 20][:20]
    pixels = [as_served(manifest.resize).load(path)[0] for path in chosen]
    normalise = Normalise(manifest.mean, manifest.std, torch.device("cpu"))
    images = normalise(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2))
    layers = ["part_votes", "backbone.features.18", "backbone.features.14", "backbone.features.7"]
    figures = cascade_figures(cascade(network, images, images[:8], layers))
    assert (1, 1, 1, 20) == tuple(round(value, 6) for value in figures["sanity_original"].to_dict().values())
    for layer in layers:
        assert figures[f"sanity_{layer}"].value < 0.3
        assert figures[f"sanity_{layer}"].high < 0.5
