"""The loss that draws evidence to field marks: the map of "A, not B" lights up where A and B differ, part by part.

How much two classes differ at a part comes from the table of marks alone, and where the parts are from the mark head,
which the loss does not move: it teaches the class's own feature map, and the parts' votes. Per photo it is 1 − the
correlation, over the cells of that map and weighted by how surely a part is there, between the map and the expected
difference in a cell.

Source: this project. Guided by parts that nobody annotated, in place of the human attention of Selvaraju et al. 2019,
"Taking a HINT", arXiv:1902.03751.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.explain.gradcam import signed_map
from model.network.marks import MarkHead, cell_mass
from model.network.network import Answer, Network
from training.data.marks import Marks

FOREGROUND = 1e-3
"""Least mass of all parts in a cell whose difference is expected in full: elsewhere is no part, and no difference."""
SMALLEST = 1e-12
"""Added to the product of the variances: a map that does not vary correlates with nothing."""


class EvidenceLoss(nn.Module):
    """How little the map of "A, not B" follows the parts in which A and B differ.

    Args:
        head: that finds the parts.
        marks: the table; an unknown share differs from none.
    """

    table: Tensor
    of_part: Tensor

    def __init__(self, head: MarkHead, marks: Marks) -> None:
        super().__init__()
        self.register_buffer("table", torch.from_numpy(marks.table).float(), persistent=False)
        of_part = functional.one_hot(head.part_of, len(head.parts)).T
        self.register_buffer("of_part", of_part.bool(), persistent=False)

    def forward(self, network: Network, answer: Answer, maps: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Return the mean over the photos, scalar, from 0 to 2.

        Args:
            network: with a mark head; its class head is explained.
            answer: of the network, with its graph.
            maps: of the backbone's stages, first to last.
            targets: shares of the classes, (N, K); A is the largest, B is drawn by the probability of the others.

        Raises:
            ValueError: the network has no marks.
        """
        if network.mark_head is None:
            raise ValueError("the network has no marks")
        with torch.no_grad():
            votes = answer.votes
            weights = network.mark_head.weights(maps) if votes is None else votes.reading.weights
        true = targets.argmax(1)
        others = answer.logits.detach().softmax(1).scatter(1, true[:, None], 0.0)
        second = torch.multinomial(others.clamp_min(SMALLEST).scatter(1, true[:, None], 0.0), 1)[:, 0]
        found = signed_map(network, answer, true, second).float()
        mass = weights.float()
        if votes is None:
            mass = cell_mass(mass, network.backbone.stages[-1], found.shape[-1])
        every = mass.sum(1)
        expected = torch.einsum("np,nphw->nhw", self.differences(true, second), mass) / (every + FOREGROUND)
        return (1 - correlation(found, expected, every)).mean()

    def differences(self, first: Tensor, second: Tensor) -> Tensor:
        """Return how much two classes differ at each part, (N,) twice → (N, P): by the mark that differs most."""
        apart = (self.table[first] - self.table[second]).abs().nan_to_num(0)
        return (apart[:, None] * self.of_part).amax(2)


def correlation(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted correlation of two maps of each photo, (N, h, w) thrice → (N,)."""
    weight = weight / weight.sum((1, 2), keepdim=True)

    def mean(x: Tensor) -> Tensor:
        return (weight * x).sum((1, 2), keepdim=True)

    first, second = first - mean(first), second - mean(second)
    product = mean(first * second) / (mean(first**2) * mean(second**2) + SMALLEST).sqrt()
    return product[:, 0, 0]
