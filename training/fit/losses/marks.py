"""The loss of the mark head: a table class × mark says what is seen on a part, and nothing says where the part is.

Two readings learn from the table. The one that is served reads the marks at places that it does not move. The places
are learnt by a local reading of the common values, such as colours, from fine maps: at each place it says which of
them is there, a part's answer is the mean over its places, and that answer has to be the table's, part by part, and
all parts' answers together have to name the class. What sees so little of the image cannot know the class otherwise
than by looking at each part. Parts that lie in one place pay for it, for the table alone does not hold them apart.

Source: the table as a likelihood of the class: Lampert et al. 2009, "Learning to detect unseen object classes by
between-class attribute transfer", doi:10.1109/CVPR.2009.5206594.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.network.marks import MarkHead
from training.data.marks import Marks
from training.recipe import MarkRecipe

SMALLEST = 1e-4
"""Added to probabilities before the logarithm: a value that is said to be impossible costs so much and no more."""


LOWEST = -30.0
"""Least logarithm of odds against the likeliest value."""
FOUND = 0.3
"""Share of the training after which what needs the places of parts rises from 0."""


class MarkLoss(nn.Module):
    """The loss of a mark head.

    Args:
        head: to train; a part of the network, not of this module.
        marks: the table; NaN, where a share is unknown, teaches nothing.
        settings: weights of the terms.
    """

    shares: Tensor
    known: Tensor
    local: Tensor
    likely: Tensor
    possible: Tensor
    located: Tensor
    derived: Tensor

    def __init__(self, head: MarkHead, marks: Marks, settings: MarkRecipe) -> None:
        super().__init__()
        self.settings = settings
        table = torch.from_numpy(marks.table).float()
        self.register_buffer("shares", table.nan_to_num(0), persistent=False)
        self.register_buffer("known", (~table.isnan()).float(), persistent=False)
        local, possible = local_table(table, head)
        # A class of which less is known must not be the likelier for it: what is unknown is as in the other classes.
        likely, _ = local_table(torch.where(table.isnan(), table.nanmean(0), table), head)
        self.register_buffer("local", local, persistent=False)
        self.register_buffer("likely", likely, persistent=False)
        self.register_buffer("possible", possible, persistent=False)
        # A part with less than two of the common values has no place to be learnt by them; one between others has
        # its place by theirs.
        derived = torch.zeros(len(head.parts), dtype=torch.bool)
        derived[list(head.between)] = True
        self.register_buffer("located", (possible.sum(1) >= 2) & ~derived, persistent=False)
        self.register_buffer("derived", derived, persistent=False)

    def forward(self, head: MarkHead, maps: Sequence[Tensor], targets: Tensor, progress: float = 1.0) -> Tensor:
        """Return the loss of a batch, scalar.

        Args:
            head: to train.
            maps: of the backbone's stages, first to last.
            targets: shares of the classes, (N, K).
            progress: share of the training that is done. Parts are not kept apart before they have found their places.
        """
        weights, features = head.weights(maps), head.features(maps)
        # What is read does not move the places, except those that nothing else teaches.
        fixed = torch.where((self.located | self.derived)[:, None, None], weights.detach(), weights)
        logits = head.logits(fixed, features)
        known = targets @ self.known
        shares = targets @ self.shares / known.clamp_min(SMALLEST)
        each = functional.binary_cross_entropy_with_logits(logits.float(), shares, reduction="none")
        seen = (each * known).sum() / known.sum().clamp_min(1)

        copies = zip(head.copies_of_weights(maps), head.local_scores(maps), strict=True)
        places = [self._place(weights, scores, targets, progress) for weights, scores in copies]
        return self.settings.seen * seen + torch.stack(places).mean()

    def _place(self, weights: Tensor, scores: Tensor, targets: Tensor, progress: float) -> Tensor:
        """Return the loss of one reading of the places, scalar.

        Args:
            weights: where each part is, (N, P, h, w).
            scores: of each local value at each place, (N, L, h, w).
            targets: shares of the classes, (N, K).
            progress: share of the training that is done.
        """
        weights = torch.where(self.derived[:, None, None], weights.detach(), weights)
        log_answers = (local_answers(weights, scores, self.possible) + SMALLEST).log()
        taught = torch.einsum("nk,kpv->npv", targets, self.local)
        value = -(taught * log_answers)[:, self.located].sum(2).mean() if self.located.any() else scores.new_zeros(())
        likelihood = torch.einsum("kpv,npv->nk", self.likely, log_answers)
        joint = functional.cross_entropy(likelihood, targets)
        return value + joint + self.settings.apart * ramp(progress) * overlap(weights[:, self.located])


def ramp(progress: float) -> float:
    """Return the factor of a loss that needs the places of parts, from 0 until they are found to 1 at the end."""
    return max(0.0, (progress - FOUND) / (1 - FOUND))


def local_table(table: Tensor, head: MarkHead) -> tuple[Tensor, Tensor]:
    """Return the table of the common values by part, and which of them a part can have.

    The values of a part are taken as alternatives; what they leave of 1 is the share of *none of them*, the last value.

    Args:
        table: shares, (K, A); NaN where unknown.
        head: for its parts and values.

    Returns:
        Shares, (K, P, L + 1): 0 where unknown; and whether the part has a mark of a value, (P, L), as 0 and 1.
    """
    num_parts, num_values = len(head.parts), len(head.local_values)
    shares = torch.zeros(len(table), num_parts, num_values + 1)
    possible = torch.zeros(num_parts, num_values)
    unknown = torch.zeros(len(table), num_parts, dtype=torch.bool)
    for mark, (part, value) in enumerate(zip(head.part_of.tolist(), head.value_of.tolist(), strict=True)):
        if value in head.local_values:
            place = head.local_values.index(value)
            shares[:, part, place] = table[:, mark].nan_to_num(0)
            possible[part, place] = 1
            unknown[:, part] |= table[:, mark].isnan()
    shares = shares / shares.sum(2, keepdim=True).clamp_min(1)
    rest = 1 - shares.sum(2)
    # Where a share is unknown, or the part has none of these values, the rest is unknown too.
    shares[:, :, -1] = rest.masked_fill(unknown | (possible.sum(1) == 0), 0)
    return shares, possible


def local_answers(weights: Tensor, scores: Tensor, possible: Tensor) -> Tensor:
    """Return how probable each common value is at a part, the mean over the part's places, (N, P, L + 1).

    Args:
        weights: where each part is, (N, P, h, w).
        scores: of each value at each place, (N, L, h, w).
        possible: which values a part can have, (P, L), as 0 and 1; *none of them* is the last, of score 0.
    """
    scores = functional.pad(scores.flatten(2).float(), (0, 0, 0, 1))
    # Bounded below, so that a value that a part cannot have does not drown the others.
    odds = (scores - scores.amax(1, keepdim=True).detach()).clamp_min(LOWEST).exp()
    allowed = functional.pad(possible, (0, 1), value=1.0)
    total = torch.einsum("pv,nvg->npg", allowed, odds)
    return torch.bmm(weights.flatten(2) / total, odds.transpose(1, 2)) * allowed


def overlap(weights: Tensor) -> Tensor:
    """Return the mean cosine between the maps of two parts, (N, P, h, w) → scalar; 0 for a single part."""
    count = weights.shape[1]
    if count < 2:
        return weights.new_zeros(())
    unit = functional.normalize(weights.flatten(2), dim=2)
    return ((unit.sum(1) ** 2).sum(1).mean() - count) / (count * (count - 1))
