"""Do marks, embedding and novelty come out of the graph as torch in float64 computes them?"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from model.contract.graph import BEST, MAX_MARKS, Codes, Images, codes_of_best, no_mark
from model.explain.explainer import Explainer, Passed
from model.explain.marks import MarkReader
from model.export.running import Row, largest_difference, rows_of, run
from model.network.marks import MarkReading


class MarkRow(NamedTuple):
    """A graph's outputs for one image and for codes of marks.

    Attributes:
        row: the outputs, (1, …).
        mark: the codes, (1, M).
        contrast: whether rank 1 was contrasted with rank 2; else it was explained alone.
    """

    row: Row
    mark: Codes
    contrast: bool


def ask_marks(runtime: onnxruntime.InferenceSession, explainer: Explainer, images: Images, turn: int) -> list[MarkRow]:
    """Return a graph's outputs for each image, with and without a contrast; nothing where it has no marks.

    Args:
        runtime: of the graph.
        explainer: that it was made of.
        images: a batch, RGB, uint8, (N, S, S, 3).
        turn: number of the batch: 1, 3 and 8 marks are requested in turn.
    """
    if explainer.marks is None:
        return []
    count = explainer.marks.num_marks
    none = no_mark(count)
    codes = ([-1], [0, -1, none], [-1, -2, -3, -MAX_MARKS, 0, count - 1, -MAX_MARKS - 1, none])[turn % 3]
    mark = np.tile(np.array(codes, dtype=np.int64), (len(images), 1))
    target, alone = codes_of_best(len(images), explainer.num_classes)
    both = [run(runtime, images, target, versus, mark=mark) for versus in (alone, np.full_like(target, BEST - 1))]
    pairs = zip(*(rows_of(outputs, len(images)) for outputs in both), strict=True)
    return [MarkRow(row, mark[:1], bool(contrast)) for rows in pairs for contrast, row in enumerate(rows)]


def compare_embedding(reference: Explainer, passed: Passed, row: Row) -> dict[str, float]:
    """Return the largest error of an entry of a vector of length 1; nothing where there is none."""
    if reference.embedding is None or passed.pooled is None:
        return {}
    return {"embedding": largest_difference(row["embedding"], reference.embedding(passed.pooled.detach()))}


def compare_novelty(reference: Explainer, passed: Passed, row: Row) -> dict[str, float]:
    """Return the error of the score, relative to it or 1; nothing where there is none."""
    if reference.novelty is None or reference.embedding is None or passed.pooled is None:
        return {}
    logits, pooled = passed.logits.detach(), passed.pooled.detach()
    expected = reference.novelty(logits, pooled, reference.embedding.outside(pooled))
    return {"novelty": largest_difference(row["novelty"], expected) / max(1.0, float(expected.abs().max()))}


def compare_marks(
    reference: Explainer, passed: Passed, asked: MarkRow, map_of: Callable[[int, int], Tensor]
) -> dict[str, float]:
    """Return the errors of the outputs about marks, of one image.

    Args:
        reference: in float64.
        passed: its forward pass.
        asked: the graph's outputs.
        map_of: returns the reference's map, (1, h, w), of a class, contrasted with another or with none.

    Returns:
        `marks`: largest absolute error of a probability. `mark_ranks`: by how much what the marks are ranked by is out
        of order; NaN where a code did not give its mark. `mark_maps`: relative to the largest value of a map, or to the
        largest sum of absolute terms where it is a sum; NaN where the wrong maps are NaN.
    """
    reader, reading = reference.marks, passed.reading
    if reader is None or reading is None:
        return {}
    reading = type(reading)(*(value.detach() for value in reading))
    logits = passed.logits.detach()
    first = torch.from_numpy(asked.row["explained"])
    second = logits.topk(2, dim=1).indices[:, 1:] if asked.contrast else torch.tensor([[reference.num_classes]])
    seen = torch.sigmoid(reader.logits(reading))
    class_map = map_of(int(first), int(second)) if reference.ranks_by_map else None
    scores = reader.scores(reading, seen, reference.cotangent(first, second)[:, 0], class_map)
    found, maps = torch.from_numpy(asked.row["marked"]), torch.from_numpy(asked.row["mark_maps"])
    return {
        "marks": largest_difference(asked.row["marks"], seen),
        "mark_ranks": _disorder(reader, scores, torch.from_numpy(asked.mark), found),
        "mark_maps": _map_error(reader, reading, found, maps),
    }


def _disorder(reader: MarkReader, scores: Tensor, mark: Tensor, found: Tensor) -> float:
    """Return how far the marks that codes gave, (1, M), are from those they name, in what marks are ranked by."""
    expected = reader.resolve(scores, torch.tensor([True]), mark)
    ranked = (mark < 0) & (expected < reader.num_marks)
    by_rank = found[ranked].tolist()
    if not torch.equal(found[~ranked], expected[~ranked]) or len(set(by_rank)) < len(by_rank):
        return float("nan")
    if any(not 0 <= index < reader.num_marks for index in by_rank):
        return float("nan")
    return float((scores[0, found[ranked]] - scores[0, expected[ranked]]).abs().max())


def _map_error(reader: MarkReader, reading: MarkReading, found: Tensor, maps: Tensor) -> float:
    """Return the largest error of the maps, (1, M, h, w), of the marks that were found, (1, M)."""
    none = found[0] >= reader.num_marks
    if not torch.equal(maps.isnan().all(3).all(2)[0], none) or bool(maps[0, ~none].isnan().any()):
        return float("nan")
    chosen = (found[:, ~none, None] == torch.arange(reader.num_marks)).to(reading.weights.dtype)
    expected = reader.maps(reading, chosen)
    scale = reader.largest_terms(reading, chosen).clamp_min(torch.finfo(torch.float64).tiny)
    return largest_difference((maps[:, ~none] / scale).numpy(), expected / scale)
