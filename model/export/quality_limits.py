"""What a smaller precision may lose: measured against fp32 on held-out photos, and refused beyond the limits."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime

from model.contract.graph import codes_of_best
from model.export.running import Array, Runnable, run, session


class QualityError(RuntimeError):
    """The variant loses more than its limits allow; nothing was written."""


@dataclass(frozen=True)
class QualityLimits:
    """The most that a precision may lose.

    Attributes:
        top1_drop: percentage points of top-1 accuracy.
        spearman: least rank correlation of raw map cells with fp32.
    """

    top1_drop: float
    spearman: float


QUALITY_LIMITS = {
    "fp16": QualityLimits(top1_drop=0.1, spearman=0.999),
    "int8": QualityLimits(top1_drop=0.5, spearman=0.95),
}


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
        zero, which are in neither correlation; `images`.
    """
    first, second = session(reference), session(variant)
    answers = [_answer(first, second, image) for image in held_out.images]
    classes, others, maps, other_maps = (np.array(values) for values in zip(*answers, strict=True))
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
    }


def check(figures: dict[str, float], precision: str) -> None:
    """Raise unless the figures are within the limits of a precision.

    Raises:
        QualityError: with the figures and the limits; NaN does not pass.
    """
    limits = QUALITY_LIMITS[precision]
    # Accuracies are multiples of 1/n: the last bit of the subtraction must not decide.
    if not figures["top1_drop"] <= limits.top1_drop + 1e-9 or not figures["spearman"] >= limits.spearman:
        raise QualityError(
            f"{precision} loses too much on {figures['images']:.0f} held-out photos; nothing was written: "
            f"top-1 drop {figures['top1_drop']:.2f} points (at most {limits.top1_drop}), "
            f"rank correlation of map cells {figures['spearman']:.4f} (at least {limits.spearman})"
        )


def _answer(
    first: onnxruntime.InferenceSession, second: onnxruntime.InferenceSession, image: npt.NDArray[np.uint8]
) -> tuple[int, int, Array, Array]:
    """Return both classes of an image, and both maps of the class that the first graph names."""
    num_classes = next(value.shape[1] for value in first.get_outputs() if value.name == "logits")
    best, none = codes_of_best(1, num_classes)
    ours = run(first, image[None], best, none)
    theirs = run(second, image[None], ours["explained"].astype(np.int64), none)
    return int(ours["explained"][0, 0]), int(theirs["logits"].argmax()), ours["gradcam"][0, 0], theirs["gradcam"][0, 0]


def _rank_correlation(a: Array, b: Array) -> float:
    """Return Spearman's correlation; 1 for two constant maps, 0 where only one is constant or nothing is there."""
    from scipy.stats import spearmanr  # takes a second to import, and no plain export needs it

    if not len(a) or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float(len(a) > 0 and np.ptp(a) == np.ptp(b) == 0)
    return float(spearmanr(a, b).statistic)
