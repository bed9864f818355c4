"""What a smaller precision may lose: measured against fp32 on held-out photos, and refused beyond the limits."""

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
    """Photos that were not trained on: the held-out slice of train, never the test photos.

    Attributes:
        images: prepared as the manifest says, RGB, uint8, (n, S, S, 3).
        labels: class of each, int64, (n,).
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


def measure(reference: Runnable, variant: Runnable, held_out: HeldOut) -> dict[str, float]:
    """Compare a variant with the fp32 graph: answers and maps of the class that fp32 names.

    Args:
        reference: the fp32 graph.
        variant: the other one.
        held_out: photos to compare on.

    Returns:
        `top1_fp32`, `top1` and `top1_drop` in percent; `same_class`, in percent, how often both name the same
        class; `spearman` over all cells of all maps in raw units, and
        `spearman_per_image`, its mean over single maps; `zero_maps` and `zero_maps_fp32`, how many maps are all
        zero, which are in neither correlation; `images`. Of marks, as far as there are any, `marks_change`, the mean
        absolute change of a probability, and `marks_spearman`, of the cells of the map of the mark that fp32 ranks
        first; of an embedding `embedding_cosine`, the mean over photos; of novelty `novelty_spearman`, and
        `novelty_shift` in percentage points.
    """
    first, second = session(reference), session(variant)
    answers = [_answer(first, second, image) for image in held_out.images]
    ours, theirs = (
        {name: np.concatenate([one[name] for one in side]) for name in side[0]} for side in zip(*answers, strict=True)
    )
    classes, others = ours["explained"][:, 0], theirs["logits"].argmax(1)
    maps, other_maps = ours["gradcam"], theirs["gradcam"]
    full, other = maps.reshape(len(maps), -1), other_maps.reshape(len(maps), -1)
    alive = full.any(1) & other.any(1)
    top1_fp32, top1 = (100 * float((found == held_out.labels).mean()) for found in (classes, others))
    single = [_rank_correlation(a, b) for a, b in zip(full[alive], other[alive], strict=True)]
    return {
        "images": float(len(maps)),
        "top1_fp32": top1_fp32,
        "top1": top1,
        "top1_drop": top1_fp32 - top1,
        "same_class": 100 * float((classes == others).mean()),
        "spearman": _rank_correlation(full[alive].ravel(), other[alive].ravel()),
        "spearman_per_image": sum(single) / max(1, len(single)),
        "zero_maps_fp32": float((~full.any(1)).sum()),
        "zero_maps": float((~other.any(1)).sum()),
        **_of_marks(ours, theirs),
        **_of_embedding(ours, theirs),
        **_of_novelty(ours, theirs),
    }


def _of_marks(ours: Row, theirs: Row) -> dict[str, float]:
    if "marks" not in ours:
        return {}
    change = np.abs(ours["marks"].astype(float) - theirs["marks"].astype(float))
    correlation = _rank_correlation(ours["mark_maps"].ravel(), theirs["mark_maps"].ravel())
    return {"marks_change": float(change.mean()), "marks_spearman": correlation}


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
        QualityError: with the figures and the limits; NaN does not pass.
    """
    kept = limits_kept(figures, precision)
    if not all(kept.values()):
        raise QualityError(
            f"{precision} loses too much on {figures['images']:.0f} held-out photos; nothing was written: "
            + ", ".join(kept)
        )


def _answer(
    first: onnxruntime.InferenceSession, second: onnxruntime.InferenceSession, image: npt.NDArray[np.uint8]
) -> tuple[Row, Row]:
    """Return both answers for an image, and both maps of the class and the mark that the first graph names."""
    num_classes = next(value.shape[1] for value in first.get_outputs() if value.name == "logits")
    best, none = codes_of_best(1, num_classes)
    marked = any(value.name == "mark" for value in first.get_inputs())
    ours = run(first, image[None], best, none, mark=best if marked else None)
    mark = ours["marked"].astype(np.int64) if marked else None
    return ours, run(second, image[None], ours["explained"].astype(np.int64), none, mark=mark)


def _rank_correlation(a: Array, b: Array) -> float:
    """Return Spearman's correlation; 1 for two constant maps, 0 where only one is constant or nothing is there."""
    from scipy.stats import spearmanr  # takes a second to import, and no plain export needs it

    if not len(a) or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float(len(a) > 0 and np.ptp(a) == np.ptp(b) == 0)
    return float(spearmanr(a, b).statistic)
