"""What a run says of itself: what it found and trains, how long that takes, and which weights it keeps and why."""

from collections.abc import Sequence

import torch

from training.checkpoint import Selected
from training.fit.job import Job, Parts
from training.fit.journal import Record
from training.fit.learner import Learner

FEW = 100
"""Fewer held-out photos than these fit a temperature badly."""
LONG_S = 3600.0
"""A run that takes longer gets a warning, seconds."""
_EVALUATION = 0.5
"""Time of a held-out batch, as a share of a step's: no gradient."""


def introduction(job: Job, parts: Parts, learner: Learner, device: torch.device) -> list[str]:
    """Return what was found, and what is trained on which device."""
    dataset, network = job.dataset, learner.network
    photos = [sample.label for sample in parts.train]
    counts = [photos.count(label) for label in set(photos)]
    each = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    lines = [
        f"{dataset.name}: {len(dataset.labels)} classes, {len(photos)} photos to train on ({each} a class), "
        f"{len(parts.held)} held out, {len(dataset.test)} to test"
    ]
    digests = [sample.digest for sample in (*parts.train, *parts.held) if sample.digest]
    faults = {
        "damaged and left out": dataset.skipped,
        "copies of other training photos": len(digests) - len({*digests}),
    }
    if any(faults.values()):
        lines.append("; ".join(f"{what}: {count}" for what, count in faults.items() if count))
    weights = [weight.numel() for weight in network.parameters()]
    learn = [weight.numel() for weight in network.parameters() if weight.requires_grad]
    place = f"the CPU ({torch.get_num_threads()} threads)"
    if device.type == "cuda":
        place = torch.cuda.get_device_name(device)
    lines.append(
        f"{job.recipe.network.backbone}, weights at the start: {job.weights_name}, attention: "
        f"{job.recipe.network.attention}; "
        f"{sum(weights):,} weights, {sum(learn):,} of them learn, on {place}"
    )
    return lines


def expectation(pace_s: float, steps: int, evaluations: int, sight: int = 0) -> list[str]:
    """Return how long the rest takes, and a warning where that is long.

    Args:
        pace_s: time of a step, seconds.
        steps: of the training left.
        evaluations: batches of held-out photos left, over all epochs.
        sight: epochs after them in which the readers of marks learn alone, at a pace of their own.
    """
    seconds = pace_s * (steps + _EVALUATION * evaluations)
    lines = [f"about {duration(seconds)} to go, measured on a few steps that change nothing"]
    if sight:
        lines.append(f"then {sight} epochs of the readers of marks alone, which say their own time")
    if seconds > LONG_S:
        lines.append("warning: over an hour. A GPU, a smaller --recipe or fewer --epochs take less; "
                     "Ctrl-C and --time-budget-s keep what is done, and the same command resumes")  # fmt: skip
    return lines


def duration(seconds: float) -> str:
    """Return a time for people."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def kept(best: Selected, records: Sequence[Record], num_held: int) -> list[str]:
    """Return which epoch's weights are kept and why, and a warning where few photos calibrate them."""
    last = best.recipe.optim.epochs
    which = f"keeps epoch {best.epoch} of {last}"
    if not num_held:
        return [f"{which}: the last, because no photo is held out to choose by; not calibrated"]
    if best.recipe.run.selection == "last":
        lines = [f"{which}: the last, as the recipe says (run.selection)"]
    else:
        top1, nll = best.metrics["top1"], best.metrics["nll"]
        lines = [f"{which}: the best on the {num_held} held-out photos, top-1 {top1:.1%} (loss {nll:.3f})"]
        final = records[-1] if records else {}
        if best.epoch != last and "held_out_top1" in final:
            lines[0] += f"; the last has {final['held_out_top1']:.1%} (loss {final['held_out_nll']:.3f})"
    return lines + few(best.temperature, num_held, "; --folds 5 calibrates on all training photos")


def few(temperature: float, photos: int, advice: str = "") -> list[str]:
    """Return a warning where few photos calibrate.

    Args:
        temperature: of the probabilities.
        photos: that it is fitted on.
        advice: what helps.
    """
    if photos >= FEW:
        return []
    words = f"warning: the temperature, {temperature:.2f}, stands on {photos} photos: do not rely on probabilities"
    return [words + advice]
