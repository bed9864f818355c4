"""Grad-CAM in torch: the formula, and that computing it leaves no trace on the network."""

import copy

import pytest
import torch
from torch import Tensor, nn

from model.explain.gradcam import channel_gradients
from model.network.network import Network, NetworkConfig, build_network


def _network(pooling: str = "max") -> Network:
    torch.manual_seed(0)
    network = build_network(NetworkConfig("squeezenet1_1", "guided", num_classes=6, pooling=pooling, hidden=32))  # type: ignore[arg-type]
    network.train()
    network(torch.rand(8, 3, 64, 64))
    return network


def _plain_gradients(network: Network, feature_map: Tensor, target: Tensor) -> Tensor:
    feature_map = feature_map.detach().requires_grad_()
    score = network.forward_head(feature_map).gather(1, target[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, feature_map)
    return gradient.mean((2, 3))


@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_channel_gradients_equal_the_whole_gradient(pooling: str) -> None:
    """Going through the pooled vector gives the mean over positions of the whole gradient."""
    network = _network(pooling).eval()
    attended = network.forward_features(torch.rand(4, 3, 64, 64))
    target = torch.tensor([0, 3, 5, 1])
    expected = _plain_gradients(network, attended.feature_map, target)
    assert torch.allclose(expected, channel_gradients(network, attended, target), atol=1e-7)


def test_running_statistics_are_used_in_training_mode() -> None:
    """In training the gradients are those of evaluation: no image's gradient depends on its neighbours."""
    network = _network()
    attended = network.forward_features(torch.rand(4, 3, 64, 64))
    target = torch.tensor([2, 2, 2, 2])
    expected = _plain_gradients(copy.deepcopy(network).eval(), attended.feature_map, target)
    assert torch.allclose(expected, channel_gradients(network, attended, target), atol=1e-7)


def test_coupled_gradients_depend_on_the_batch() -> None:
    """The released scripts' way: in training mode the batch's statistics join the images."""
    network = _network()
    attended = network.forward_features(torch.rand(4, 3, 64, 64))
    target = torch.tensor([2, 2, 2, 2])
    expected = _plain_gradients(copy.deepcopy(network), attended.feature_map, target)
    coupled = channel_gradients(network, attended, target, coupled=True)
    assert torch.allclose(expected, coupled, atol=1e-6)
    assert not torch.allclose(coupled, channel_gradients(network, attended, target), atol=1e-5)


@pytest.mark.parametrize("coupled", [False, True])
def test_nothing_is_left_behind(coupled: bool) -> None:
    """No gradient is accumulated, no statistic moves, no mode changes, and the result is detached."""
    network = _network()
    network.head[0].eval()
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    tracked = [module.track_running_stats for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
    attended = network.forward_features(torch.rand(4, 3, 64, 64))
    gradients = channel_gradients(network, attended, torch.tensor([0, 1, 2, 3]), coupled=coupled)
    assert not gradients.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("head."))
    assert modes == [module.training for module in network.modules()]
    assert tracked == [m.track_running_stats for m in network.modules() if isinstance(m, nn.BatchNorm1d)]
