"""What a smaller precision may lose: measured against fp32 on photos of train, and refused beyond the limits."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime

from model.contract.graph import codes_of_best
from model.contract.variant import limits_kept
from model.export.running import Array, Row, Runnable, run, session

ACCEPTED = 0.95
"""Share of photos below the value at which the shift of novelty is measured."""


class QualityError(RuntimeError):
    """The variant loses more than its limits allow; nothing was written."""


@dataclass(frozen=True)
class HeldOut:
    """Photos for the comparison: of train, never the test photos, and none that a variant was calibrated on.

    Attributes:
        images: prepared as the manifest says, RGB, uint8, (n, S, S, 3).
        labels: class of each, int64, (n,).
        trained_on: whether the network was trained on them, where all photos were: then top-1 is not what new
            photos would give, and more photos have a clear answer; what differs from fp32 is measured all the same.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    trained_on: bool = False


def measure(reference: Runnable, variant: Runnable, held_out: HeldOut) -> dict[str, float]:
    """Compare a variant with the fp32 graph: answers and maps of the class that fp32 names.

    Args:
        reference: the fp32 graph.
        variant: the other one.
        held_out: photos to compare on.

    Returns:
        `top1_fp32`, `top1` and `top1_drop` in percent; `same_class`, in percent, how often both name the same
        class; `spearman` over all cells of all maps in raw units, and
        `spearman_per_image` and `spearman_median`, mean and median over single maps; `zero_maps` and
        `zero_maps_fp32`, how many maps are all zero, which are in no correlation where both are, and lost, 0, where one
        is; `contrast_median`, of the maps of the first class against the second; `images`; `trained_on`, 1 or 0.
        Of marks, as far as there are any, `marks_change`, the mean absolute change of a probability, and of the map of
        the mark that fp32 ranks first `marks_spearman`, of its cells, and `mark_peaks` in percent; of an embedding
        `embedding_cosine`, the mean over photos; of novelty `novelty_spearman`, and `novelty_shift` in percentage
        points.
    """
    first, second = session(reference), session(variant)
    answers = [_answer(first, second, image) for image in held_out.images]
    ours, theirs = (
        {name: np.concatenate([one[name] for one in side]) for name in side[0]} for side in zip(*answers, strict=True)
    )
    classes, others = ours["explained"][:, 0], theirs["logits"].argmax(1)
    (full, contrast), (other, other_contrast) = (
        [maps[:, index].reshape(len(maps), -1) for index in (0, 1)] for maps in (ours["gradcam"], theirs["gradcam"])
    )
    alive = full.any(1) | other.any(1)
    top1_fp32, top1 = (100 * float((found == held_out.labels).mean()) for found in (classes, others))
    single = _of_each(full, other)
    return {
        "images": float(len(full)),
        "trained_on": float(held_out.trained_on),
        "top1_fp32": top1_fp32,
        "top1": top1,
        "top1_drop": top1_fp32 - top1,
        "same_class": 100 * float((classes == others).mean()),
        "spearman": _rank_correlation(full[alive].ravel(), other[alive].ravel()),
        "spearman_per_image": float(np.mean(single)),
        "spearman_median": float(np.median(single)),
        "zero_maps_fp32": float((~full.any(1)).sum()),
        "zero_maps": float((~other.any(1)).sum()),
        "contrast_median": float(np.median(_of_each(contrast, other_contrast))),
        **_of_marks(ours, theirs),
        **_of_embedding(ours, theirs),
        **_of_novelty(ours, theirs),
    }


def _of_each(maps: Array, others: Array) -> list[float]:
    """Return the rank correlation of every two maps, (n, cells): 0 where one is lost; without pairs that have nothing.

    One 0 where no pair has anything.
    """
    pairs = zip(maps, others, strict=True)
    return [_rank_correlation(a, b) for a, b in pairs if a.any() or b.any()] or [0.0]


def _of_marks(ours: Row, theirs: Row) -> dict[str, float]:
    if "marks" not in ours:
        return {}
    change = np.abs(ours["marks"].astype(float) - theirs["marks"].astype(float))
    correlation = _rank_correlation(ours["mark_maps"].ravel(), theirs["mark_maps"].ravel())
    apart = np.abs(_peaks(ours["mark_maps"]) - _peaks(theirs["mark_maps"])).max(1)
    return {
        "marks_change": float(change.mean()),
        "marks_spearman": correlation,
        "mark_peaks": 100 * float((apart <= 1).mean()),
    }


def _peaks(maps: Array) -> npt.NDArray[np.int64]:
    """Return row and column of the largest cell of the first map of each photo, (n, 2)."""
    first = maps[:, 0]
    cells = first.reshape(len(first), -1).argmax(1)
    return np.stack(np.unravel_index(cells, first.shape[1:]), axis=1)


def _of_embedding(ours: Row, theirs: Row) -> dict[str, float]:
    if "embedding" not in ours:
        return {}
    first, second = ours["embedding"].astype(float), theirs["embedding"].astype(float)
    return {"embedding_cosine": float((first * second).sum(1).mean())}


def _of_novelty(ours: Row, theirs: Row) -> dict[str, float]:
    if "novelty" not in ours:
        return {}
    first, second = ours["novelty"].astype(float), theirs["novelty"].astype(float)
    threshold = np.quantile(first, ACCEPTED)
    shift = abs(float((second > threshold).mean() - (first > threshold).mean()))
    return {"novelty_spearman": _rank_correlation(first, second), "novelty_shift": 100 * shift}


def check(figures: dict[str, float], precision: str) -> None:
    """Raise unless the figures are within the limits of a precision.

    Raises:
        QualityError: with every figure beyond its limit; NaN does not pass.
    """
    broken = [text for text, kept in limits_kept(figures, precision).items() if not kept]
    if broken:
        photos = "photos that were trained on" if figures.get("trained_on") else "held-out photos"
        raise QualityError(
            f"{precision} loses too much on {figures['images']:.0f} {photos}; nothing was written: {', '.join(broken)}"
        )


def _answer(
    first: onnxruntime.InferenceSession, second: onnxruntime.InferenceSession, image: npt.NDArray[np.uint8]
) -> tuple[Row, Row]:
    """Return both answers for an image: maps of the class that the first graph names, alone and against its second."""
    num_classes = next(value.shape[1] for value in first.get_outputs() if value.name == "logits")
    best, none = codes_of_best(1, num_classes)
    marked = any(value.name == "mark" for value in first.get_inputs())
    twice, versus = np.repeat(best, 2, axis=1), np.concatenate([none, best - 1], axis=1)
    ours = run(first, image[None], twice, versus, mark=best if marked else None)
    mark = ours["marked"].astype(np.int64) if marked else None
    versus[:, 1] = np.argsort(-ours["logits"].astype(float), axis=1, kind="stable")[:, 1]
    return ours, run(second, image[None], ours["explained"].astype(np.int64), versus, mark=mark)


def _rank_correlation(a: Array, b: Array) -> float:
    """Return Spearman's correlation; 1 for two constant maps, 0 where only one is constant or nothing is there."""
    from scipy.stats import spearmanr  # takes a second to import, and no plain export needs it

    if not len(a) or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float(len(a) > 0 and np.ptp(a) == np.ptp(b) == 0)
    return float(spearmanr(a, b).statistic)
