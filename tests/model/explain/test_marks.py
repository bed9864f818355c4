"""Marks in torch: probabilities, ranks and maps, for every code there is."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model.contract.manifest import Marks
from model.contract.marks import write_table
from model.explain.marks import MarkAnswer, MarkCalibration, MarkReader
from model.network.backbone import Stage
from model.network.config import NetworkOptions
from model.network.marks import MarkHead, MarkReading
from tests.model.networks import MARKS

CLASSES, GRID, WIDTH = 3, 4, 5
NONE = len(MARKS)


def _reader(names: tuple[str, ...] = MARKS, maps: str = "weights", table: Tensor | None = None) -> MarkReader:
    torch.manual_seed(1)
    stages = (Stage("fine", 6, 4), Stage("coarse", 8, 8))
    options = NetworkOptions(mark_grid=GRID, mark_width=WIDTH, mark_places=(1,), mark_values=(0,), mark_local=(0,))
    head = MarkHead(names, stages, options).eval()
    with torch.no_grad():
        head.bias.normal_()
    shares = torch.rand(CLASSES, len(names)) if table is None else table
    listed = [{"name": name, "part": name.split(":")[0]} for name in names]
    marks = Marks.model_validate(
        {"marks": listed, "table": write_table(shares.numpy()), "grid": (GRID, GRID), "maps": maps}
    )
    calibration = MarkCalibration(torch.rand(len(names)) + 0.5, torch.rand(len(names)) - 0.5)
    return MarkReader(head, marks, CLASSES, calibration).requires_grad_(False)


def _reading(reader: MarkReader, count: int = 2) -> MarkReading:
    torch.manual_seed(2)
    reading: MarkReading = reader.head([torch.randn(count, 6, 8, 8), torch.randn(count, 8, 4, 4)])
    return reading


def _ask(
    reader: MarkReader, mark: list[int], target: int = 0, versus: int | None = None, valid: bool = True
) -> tuple[MarkReading, MarkAnswer]:
    reading = _reading(reader)
    difference = torch.zeros(2, CLASSES)
    difference[:, target] += 1
    if versus is not None:
        difference[:, versus] -= 1
    return reading, reader(reading, difference, torch.full((2,), valid), torch.tensor([mark, mark]))


def test_marks_rank_by_where_the_decision_looked() -> None:
    """A map of a class at one part's places puts that part's marks first; an empty one leaves the order as it is."""
    reader = _reader(table=torch.ones(CLASSES, NONE))
    reading, plain = _ask(reader, [-1, -2, -3])
    apart = torch.eye(GRID**2)[: len(reader.head.parts)].view(1, -1, GRID, GRID).expand(2, -1, -1, -1)
    reading = reading._replace(weights=apart)
    difference = functional.one_hot(torch.zeros(2, dtype=torch.int64), CLASSES).float()

    def ranked(class_map: Tensor) -> Tensor:
        asked = torch.tensor([[-1, -2, -3]] * 2)
        return reader(reading, difference, torch.ones(2, dtype=torch.bool), asked, class_map).marked

    assert torch.equal(plain.marked, ranked(torch.zeros(2, GRID, GRID)))
    for part in range(len(reader.head.parts)):
        assert (reader.head.part_of[ranked(apart[:, part])[:, 0]] == part).all()
    reader.located[:] = False
    assert torch.equal(plain.marked, ranked(apart[:, 0])), "what has no place has none in the map either"


def test_probabilities_are_of_calibrated_logits() -> None:
    """Scale and shift are those of Platt's scaling, a mark at a time."""
    reader = _reader()
    reading, answer = _ask(reader, [0])
    torch.testing.assert_close(answer.seen, torch.sigmoid(reading.logits * reader.scale + reader.shift))


def test_a_mark_by_its_index_has_the_weights_of_its_part() -> None:
    """Each is a distribution over the grid, whatever is explained, even nothing."""
    reader = _reader()
    reading, answer = _ask(reader, [*range(NONE)], valid=False)
    assert [*range(NONE)] == answer.marked[0].tolist()
    torch.testing.assert_close(answer.maps, reading.weights[:, reader.head.part_of])
    torch.testing.assert_close(answer.maps.sum((2, 3)), torch.ones(2, NONE))


def test_contributions_and_bias_give_the_calibrated_logit() -> None:
    """The map holds the positive terms of a sum that is the logit, calibration included."""
    reader = _reader(maps="contributions")
    reading, answer = _ask(reader, [*range(NONE)])
    weight, bias = reader.head.readout
    values = torch.einsum("a,ad,ndhw->nahw", reader.scale, weight, reading.features)
    terms = reading.weights[:, reader.head.part_of] * values
    torch.testing.assert_close(answer.maps, terms.relu())
    assert bool((terms < 0).any())
    torch.testing.assert_close(
        reader.scale * bias + reader.shift + terms.sum((2, 3)), torch.logit(answer.seen), atol=1e-5, rtol=1e-4
    )
    largest = reader.largest_terms(reading, torch.eye(NONE).expand(2, -1, -1))[:, :, 0, 0]
    assert bool((largest >= answer.maps.amax((2, 3)) - 1e-7).all())


@pytest.mark.parametrize("versus", [None, 2])
def test_ranks_are_by_seen_times_typical(versus: int | None) -> None:
    """Typical of the target, or more typical of it than of the contrast; each rank has the map of its mark."""
    reader = _reader()
    _, answer = _ask(reader, [-1, -2, -3, -8], target=1, versus=versus)
    typical = reader.table[1] - (0 if versus is None else reader.table[versus])
    order = (answer.seen * typical).argsort(dim=1, descending=True)
    assert order[:, [0, 1, 2, 7]].tolist() == answer.marked.tolist()
    _, direct = _ask(reader, answer.marked[0].tolist())
    torch.testing.assert_close(answer.maps[0], direct.maps[0])


@pytest.mark.parametrize("code", [NONE, NONE + 1, -9, 2**63 - 1, -(2**63)])
def test_codes_that_name_none_are_nan_and_leave_the_others_alone(code: int) -> None:
    """`marked` is A, the code for none itself included."""
    _, answer = _ask(_reader(), [3, code])
    assert [[3, NONE]] * 2 == answer.marked.tolist()
    assert bool(answer.maps[:, 1].isnan().all())
    assert bool(answer.maps[:, 0].isfinite().all())


def test_without_a_class_to_explain_ranks_name_none() -> None:
    """A first target or versus that is no class leaves marks by index as they are."""
    _, answer = _ask(_reader(), [-1, 2, -8], valid=False)
    assert [[NONE, 2, NONE]] * 2 == answer.marked.tolist()
    assert [True, False, True] == answer.maps[0].isnan().all(2).all(1).tolist()


def test_a_model_of_few_marks_has_few_ranks() -> None:
    """Ranks beyond A name none."""
    _, answer = _ask(_reader(MARKS[:3]), [-1, -2, -3, -4, -8])
    assert [3, 3] == answer.marked[0, 3:].tolist()
    assert [0, 1, 2] == sorted(answer.marked[0, :3].tolist())


def test_an_unknown_share_speaks_for_nothing() -> None:
    """NaN in the table is 0 in the graph: such a mark is ranked behind those that are typical, and nothing is NaN."""
    table = torch.full((CLASSES, NONE), 0.5)
    table[0, :5] = np.nan
    _, answer = _ask(_reader(table=table), [-1, -2, -3, -4, -5, -6])
    assert bool((answer.marked[:, :5] >= 5).all())
    assert bool((answer.marked[:, 5] < 5).all())
    assert bool(answer.maps.isfinite().all())
