"""The loss that draws the class's map to the parts in which two classes differ."""

import numpy as np
import pytest
import torch

from model.network.network import Network, NetworkConfig, build_network
from training.data.marks import Mark, Marks
from training.fit.losses.evidence import EvidenceLoss, correlation

NAMES = ("crown: red", "crown: blue", "wing: red", "wing: blue")
TABLE = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, np.nan]])
"""The second class differs from the first in its crown, the third in its wing."""


def _marks() -> Marks:
    named = (name.split(": ") for name in NAMES)
    return Marks(tuple(Mark(f"{value} {part}", part, value, "") for part, value in named), TABLE)


def _network() -> Network:
    torch.manual_seed(0)
    config = NetworkConfig("squeezenet1_1", "guided", num_classes=3, pooling="avg", head="linear", marks=NAMES)
    return build_network(config)


def _loss(network: Network) -> EvidenceLoss:
    assert network.mark_head is not None
    return EvidenceLoss(network.mark_head, _marks())


def test_correlation_is_numpys() -> None:
    """With weights, of every photo; a map that does not vary correlates with nothing."""
    torch.manual_seed(0)
    first, second, weight = torch.randn(2, 5, 5), torch.randn(2, 5, 5), torch.rand(2, 5, 5)
    first[1] = 2.0
    covariance = np.cov(first[0].flatten(), second[0].flatten(), aweights=weight[0].flatten(), ddof=0)
    expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert correlation(first, second, weight).tolist() == pytest.approx([expected, 0.0], abs=1e-4)


def test_parts_differ_by_the_mark_that_differs_most() -> None:
    """An unknown share differs from none."""
    loss = _loss(_network())
    first, second = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 1])
    assert loss.differences(first, second).tolist() == [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]


def test_the_map_is_drawn_to_the_parts_and_they_stay() -> None:
    """Some steps of this loss alone lower it; neither the mark head nor the class head has a gradient of it."""
    network = _network()
    loss, images, targets = _loss(network), torch.randn(6, 3, 96, 96), torch.eye(3).repeat(2, 1)
    optimizer = torch.optim.Adam([*network.backbone.parameters(), *network.attention.parameters()], lr=1e-3)
    found = []
    for step in range(12):
        torch.manual_seed(step % 3)  # the same other classes again and again
        maps = network.backbone.forward_maps(images)
        value = loss(network, network.answer(maps), maps, targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        found.append(value.item())
    assert sum(found[-3:]) < 0.7 * sum(found[:3])
    assert network.mark_head is not None
    heads = (*network.mark_head.parameters(), *network.head.parameters())
    assert [None] * len(heads) == [parameter.grad for parameter in heads]


def test_a_network_without_marks_is_refused() -> None:
    """There is nothing to be drawn to."""
    network = _network()
    loss = _loss(network)
    network.mark_head = None
    answer = network.answer([torch.rand(1, 512, 3, 3)])
    with pytest.raises(ValueError, match="no marks"):
        loss(network, answer, [], torch.eye(3)[:1])
