"""The votes of parts on classes: what they add up to, where they come from, and what training may not move."""

import torch

from model.network.network import Network
from tests.model.networks import CLASSES, MARK_GRID, SIZE, make_marked


def _voting() -> tuple[Network, list[torch.Tensor]]:
    network = make_marked()[0].double()
    torch.manual_seed(1)
    return network, network.backbone.forward_maps(torch.randn(3, 3, SIZE, SIZE, dtype=torch.float64))


def test_places_of_the_votes_are_gradient_times_feature() -> None:
    """They add up to the votes, but for what does not depend on the photo, and equal what autograd finds."""
    network, maps = _voting()
    reading = network.read_marks(maps)
    features = reading.features.detach().requires_grad_()
    assert network.part_votes is not None
    votes = network.part_votes(reading._replace(features=features))
    cotangent = torch.zeros(3, 2, CLASSES, dtype=torch.float64)
    cotangent[:, 0, 1], cotangent[:, 1, 1], cotangent[:, 1, 3] = 1, 1, -1
    scores = torch.einsum("ntk,nk->nt", cotangent, votes.logits)
    found = votes.maps(cotangent)
    for target in range(2):
        (gradient,) = torch.autograd.grad(scores[:, target].sum(), features, retain_graph=True)
        torch.testing.assert_close((gradient * features).sum(1), found[:, target])
    of_none = network.part_votes(reading._replace(features=torch.zeros_like(features))).logits
    of_photo = votes.logits - of_none
    torch.testing.assert_close(torch.einsum("ntk,nk->nt", cotangent, of_photo), found.sum((2, 3)))


def test_the_map_adds_up_head_and_votes() -> None:
    """On the marks' grid, and so does the attention, which lies beside it."""
    network, maps = _voting()
    answer = network.answer(maps)
    assert answer.votes is not None
    torch.testing.assert_close(answer.logits, network.classify(answer.pooled) + answer.votes.logits)
    cotangent = torch.eye(CLASSES, dtype=torch.float64)[None, :2].repeat(3, 1, 1)
    cells = torch.ones(3, 2, *maps[-1].shape[2:], dtype=torch.float64)
    share = cells[0, 0].numel() / MARK_GRID**2
    torch.testing.assert_close(
        network.class_maps(cells, answer.votes, cotangent) - answer.votes.maps(cotangent),
        torch.full((3, 2, MARK_GRID, MARK_GRID), share, dtype=torch.float64),
    )
    attention = network.attention_map(answer)
    assert attention is not None
    assert (3, MARK_GRID, MARK_GRID) == tuple(attention.shape)


def test_votes_learn_and_leave_the_reading_alone() -> None:
    """In training their gradient ends at what was read: neither marks nor backbone bend to it."""
    network, _ = _voting()
    network.train()
    answer = network.answer(network.backbone.forward_maps(torch.randn(4, 3, SIZE, SIZE, dtype=torch.float64)))
    assert network.part_votes is not None
    assert network.mark_head is not None
    assert answer.votes is not None
    network.part_votes.own(answer.votes).square().sum().backward()
    moved = {name.split(".")[0] for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert {"part_votes"} == moved
