"""The loss of the mark head: places found by a table alone, and what is unknown teaches nothing."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from model.network.backbone import Stage
from model.network.config import NetworkOptions
from model.network.marks import MarkHead
from training.checkpoint import load_selected
from training.data.marks import Mark, Marks
from training.data.samples import Dataset
from training.fit.job import Job
from training.fit.journal import read_metrics
from training.fit.loop import fit
from training.fit.losses.marks import MarkLoss, local_answers, overlap
from training.recipe import MarkRecipe

STAGES = (Stage("fine", 3, 4), Stage("coarse", 6, 8))
OPTIONS = NetworkOptions(mark_grid=8, mark_width=8, mark_places=(1,), mark_values=(1,), mark_local=(0,))
PARTS, COLOURS = ("crown", "wing", "tail"), ("red", "green", "blue")
NAMES = tuple(f"{part}: {colour}" for part in PARTS for colour in COLOURS)
COLOURS_OF = torch.tensor([[a, b, c] for a in range(3) for b in range(3) for c in range(3)])
"""The colour of each part in each of 27 classes."""


def _marks(table: np.ndarray) -> Marks:  # type: ignore[type-arg]
    named = [name.split(": ") for name in NAMES]
    return Marks(tuple(Mark(f"{value} {part}", part, value, "") for part, value in named), table)


def _table() -> np.ndarray:  # type: ignore[type-arg]
    return torch.nn.functional.one_hot(COLOURS_OF, 3).flatten(1).double().numpy()


def _scenes(count: int, seed: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return maps of objects whose parts lie anywhere, their classes, and the cells of the parts.

    The fine map is the image: a coloured cell a part, and coloured cells that are no part. The coarse one knows which
    cell is which part, without colours, and has channels of noise.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(27, (count,), generator=generator)
    cells = torch.stack([torch.randperm(64, generator=generator)[:3] for _ in range(count)])
    paint = torch.randint(3, (count, 64), generator=generator).scatter(1, cells, COLOURS_OF[labels])
    small = torch.nn.functional.one_hot(paint, 3).float().transpose(1, 2).view(count, 3, 8, 8)
    fine = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    known = torch.nn.functional.one_hot(cells, 64).float().view(count, 3, 8, 8)
    coarse = torch.cat([known, torch.rand(count, 3, 8, 8, generator=generator)], dim=1)
    return [fine, coarse], labels, cells


def test_places_are_found_by_the_table_alone() -> None:
    """No part is ever shown, yet each part's weights end on its cell in scenes that were not trained on."""
    torch.manual_seed(0)
    head = MarkHead(NAMES, STAGES, OPTIONS)
    loss = MarkLoss(head, _marks(_table()), MarkRecipe())
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.03)
    for step in range(120):
        maps, labels, _ = _scenes(64, step)
        optimizer.zero_grad()
        loss(head, maps, torch.eye(27)[labels], step / 120).backward()
        optimizer.step()
    maps, labels, cells = _scenes(200, 999)
    with torch.no_grad():
        weights = head.eval().weights(maps).flatten(2)
    assert (weights.argmax(2) == cells).float().mean() > 0.9


def test_unknown_shares_carry_no_gradient() -> None:
    """A mark that nobody spoke of is neither pushed up nor down; its neighbours are."""
    head = MarkHead(NAMES, STAGES, OPTIONS)
    table = _table()
    table[:, 4] = np.nan
    loss = MarkLoss(head, _marks(table), MarkRecipe())
    maps, labels, _ = _scenes(16, 0)
    total = loss(head, maps, torch.eye(27)[labels])
    total.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(total)
    assert head.bias.grad is not None
    assert head.bias.grad[4] == 0
    assert (head.bias.grad != 0).sum() == len(NAMES) - 1


def test_reading_does_not_move_the_places() -> None:
    """The coarse features know the class: were places learnt by what is read there, any place would do."""
    head = MarkHead(NAMES, STAGES, OPTIONS)
    maps, labels, _ = _scenes(16, 0)
    marks = _marks(_table())
    gradients = []
    for seen in (0.0, 100.0):
        head.zero_grad()
        MarkLoss(head, marks, MarkRecipe(seen=seen))(head, maps, torch.eye(27)[labels]).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in head.where.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0].abs().max() > 0


def test_answers_of_a_part_are_shares_of_what_it_can_have() -> None:
    """A part's answers and *none of them* sum to 1, and a value that it cannot have has no share."""
    weights = torch.rand(2, 2, 4, 4)
    weights /= weights.sum((2, 3), keepdim=True)
    possible = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    answers = local_answers(weights, 30 * torch.randn(2, 3, 4, 4), possible)
    torch.testing.assert_close(answers.sum(2), torch.ones(2, 2), atol=1e-5, rtol=0)
    assert answers[:, 1, 1].abs().max() == 0


@pytest.mark.parametrize(("second", "expected"), [(0, 1.0), (5, 0.0)])
def test_overlap_is_of_maps_in_one_place(second: int, expected: float) -> None:
    """1 for two parts in the same cell, 0 for two in different ones."""
    weights = torch.zeros(1, 2, 3, 3)
    weights[0, 0].view(-1)[0] = weights[0, 1].view(-1)[second] = 1
    assert overlap(weights).item() == pytest.approx(expected)


@pytest.mark.parametrize("cached_views", [0, 2])
def test_a_run_learns_the_table_of_its_data(make_job: Callable[..., Job], birds: Dataset, cached_views: int) -> None:
    """The loss of the marks falls, from images and from cached features, and the head is kept with its table."""
    data = replace(birds, marks=_marks(_table()[[0, 13, 26]]))
    cached = {"optim__freeze_until": "features.9", "data__cached_views": cached_views}
    job = make_job(dataset=data, optim__epochs=6, optim__lr_new=0.1, marks__weight=1.0, **cached)
    assert fit(job).finished
    losses = [record["marks"] for record in read_metrics(job.out)]
    assert losses[-1] < 0.9 * losses[0]
    selected = load_selected(job.out)
    assert selected.marks is not None
    assert selected.network().mark_head is not None


@pytest.mark.parametrize("marks", [None, _marks(_table()[[0, 13, 26]])])
def test_without_a_table_or_its_weight_there_is_no_head(
    make_job: Callable[..., Job], birds: Dataset, marks: Marks | None
) -> None:
    """No table, or a weight of 0: the network is the one it always was."""
    job = make_job(dataset=replace(birds, marks=marks), optim__epochs=1, marks__weight=0.0 if marks else 1.0)
    assert fit(job).finished
    selected = load_selected(job.out)
    assert selected.marks is None
    assert selected.network().mark_head is None
