"""The last lesson: what is hidden, who learns, and that a run repeats it exactly."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from model.network.network import Network, NetworkConfig, build_network
from training.checkpoint import load_selected
from training.data.marks import Mark, Marks
from training.data.samples import Dataset
from training.fit.job import Job
from training.fit.loop import fit
from training.fit.sight import RADII, hide, learn_to_see
from training.recipe import MarkRecipe, Recipe

SIDE, COUNT = 64, 6
PAIRS = (("crown", "red"), ("crown", "blue"), ("wing", "red"))
MARKS = Marks(
    tuple(Mark(f"{value} {part}", part, value, "") for part, value in PAIRS),
    np.array([[0.9, 0.1, np.nan], [0.1, 0.9, 0.8], [0.5, 0.4, 0.1]]),
)
CPU = torch.device("cpu")


def _network() -> Network:
    torch.manual_seed(0)
    names = tuple(mark.key for mark in MARKS.marks)
    config = NetworkConfig("mobilenet_v2", num_classes=3, marks=names, mark_grid=4, mark_votes=0.5, pooling="avg")
    return build_network(config).eval()


def _photos() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randint(256, (COUNT, 3, SIDE, SIDE), dtype=torch.uint8), torch.arange(COUNT) % 3


def _taught(epochs: int = 2) -> Network:
    network = _network()
    recipe = replace(Recipe(), marks=MarkRecipe(sight=epochs))
    learn_to_see(network, recipe, MARKS, TensorDataset(*_photos()), COUNT, CPU)
    return network


@pytest.mark.parametrize("seed", range(8))
def test_photos_change_under_their_discs_alone(seed: int) -> None:
    """Discs of every kind lie where the places say; outside them not a pixel differs."""
    images, _ = _photos()
    places = torch.zeros(COUNT, 4, 4)
    places[:, 1, 2] = 1
    found, hidden = hide(images, places, (124, 116, 104), torch.Generator().manual_seed(seed))
    outside = ~hidden.expand_as(images)
    assert torch.equal(found[outside], images[outside])
    changed = (found != images).any(1, keepdim=True)
    assert changed.flatten(1).any(1).all()
    assert (changed & hidden).sum() > 0.9 * hidden.sum()
    rows, columns = torch.where(hidden.any(0)[0])
    reach = RADII[1] * SIDE
    assert SIDE / 4 - reach <= rows.min() <= rows.max() <= SIDE / 2 + reach
    assert SIDE / 2 - reach <= columns.min() <= columns.max() <= 3 * SIDE / 4 + reach


def test_the_readers_alone_learn() -> None:
    """Places, features and the class head stay to the last bit; what reads the marks and the votes moves."""
    before, after = _network(), _taught()
    learnt = {name for name, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert learnt, "nothing was learnt"
    allowed = ("mark_head.what.layers", "mark_head.reader", "mark_head.own", "mark_head.bias", "part_votes.layer")
    assert all(name.startswith(allowed) for name in learnt)
    assert {name.split(".")[1] for name in learnt} == {"what", "reader", "own", "bias", "layer"}
    assert [p.requires_grad for p in before.parameters()] == [p.requires_grad for p in after.parameters()]
    again = _taught().state_dict()
    assert all(torch.equal(value, again[name]) for name, value in after.state_dict().items())
    untouched = _taught(epochs=0).state_dict()
    assert all(torch.equal(value, untouched[name]) for name, value in before.state_dict().items())


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_a_run_ends_with_it(make_job: Callable[..., Job], birds: Dataset, ema_decay: float) -> None:
    """The weights that are kept have learnt it; all but the readers are those of the same run without."""
    data = replace(birds, marks=MARKS)
    settings = {"optim__epochs": 1, "marks__weight": 1.0, "network__mark_votes": 0.5, "run__selection": "last"}
    states = []
    for sight in (0, 1):
        job = make_job(dataset=data, marks__sight=sight, run__ema_decay=ema_decay, **settings)
        job = replace(job, out=job.out / str(sight))
        assert fit(job).finished
        states.append(load_selected(job.out).state_dict)
    different = {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}
    assert "mark_head.reader.weight" in different
    assert not any(name.startswith(("backbone", "head", "attention", "mark_head.where")) for name in different)
