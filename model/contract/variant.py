"""A variant: the same model in a smaller precision, in a file beside it, within limits of what it may lose.

`NAME/VERSION.onnx` has its variants in `NAME/VERSION.int8.onnx` and `NAME/VERSION.fp16.onnx`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.contract.manifest import Manifest

GATE = "gate."
"""Begins the names of a variant's figures in its manifest's metrics."""


@dataclass(frozen=True)
class QualityLimits:
    """The most that a precision may lose.

    Attributes:
        top1_drop: percentage points of top-1 accuracy.
        spearman: least rank correlation of raw map cells with fp32.
        marks_change: mean absolute change of the probability that a mark is seen.
        embedding_cosine: least mean cosine between a photo's vector and its vector in fp32.
        novelty_spearman: least rank correlation of photos' novelty with fp32.
        novelty_shift: of the share of photos above the value that a twentieth exceeds in fp32, percentage points.
    """

    top1_drop: float
    spearman: float
    marks_change: float
    embedding_cosine: float
    novelty_spearman: float
    novelty_shift: float


QUALITY_LIMITS = {
    "fp16": QualityLimits(
        top1_drop=0.1,
        spearman=0.999,
        marks_change=0.002,
        embedding_cosine=0.999,
        novelty_spearman=0.999,
        novelty_shift=0.5,
    ),
    "int8": QualityLimits(
        top1_drop=0.5, spearman=0.95, marks_change=0.02, embedding_cosine=0.97, novelty_spearman=0.95, novelty_shift=3.0
    ),
}


def variant_path(full: Path, precision: str) -> Path:
    """Return where the variant of a file lies: `2.onnx` → `2.int8.onnx`."""
    return full.with_suffix(f".{precision}{full.suffix}")


def full_path(variant: Path, precision: str) -> Path | None:
    """Return the file whose variant a path names: `2.int8.onnx` → `2.onnx`; None where it names none."""
    full = variant.with_suffix("").with_suffix(variant.suffix)
    return full if variant == variant_path(full, precision) else None


def limits_kept(figures: Mapping[str, float], precision: str) -> dict[str, bool]:
    """Return of each figure, described with its limit, whether it is within the limit of a precision; NaN is not.

    Args:
        figures: as `model.export.quality_limits.measure` returns them.
        precision: `fp16` or `int8`.
    """
    limits = QUALITY_LIMITS[precision]
    # Accuracies are multiples of 1/n: the last bit of the subtraction must not decide.
    kept = {
        f"top-1 drop {figures['top1_drop']:.2f} points (at most {limits.top1_drop})": (
            figures["top1_drop"] <= limits.top1_drop + 1e-9
        ),
        f"rank correlation of map cells {figures['spearman']:.4f} (at least {limits.spearman})": (
            figures["spearman"] >= limits.spearman
        ),
    }
    if "marks_change" in figures:
        change = figures["marks_change"]
        kept[f"change of marks {change:.4f} (at most {limits.marks_change})"] = change <= limits.marks_change
    if "embedding_cosine" in figures:
        cosine = figures["embedding_cosine"]
        kept[f"cosine of embeddings {cosine:.4f} (at least {limits.embedding_cosine})"] = (
            cosine >= limits.embedding_cosine
        )
    if "novelty_shift" in figures:
        order, shift = figures["novelty_spearman"], figures["novelty_shift"]
        kept[f"rank correlation of novelty {order:.4f} (at least {limits.novelty_spearman})"] = (
            order >= limits.novelty_spearman
        )
        kept[f"shift of unlike photos {shift:.2f} points (at most {limits.novelty_shift})"] = (
            shift <= limits.novelty_shift + 1e-9
        )
    return kept


def quality_fault(variant: Manifest) -> str:
    """Return why the recorded quality of a variant does not suffice; empty where it does."""
    figures = {name.removeprefix(GATE): value for name, value in variant.metrics.items() if name.startswith(GATE)}
    needed = ["top1_drop", "spearman"]
    needed += ["marks_change"] if variant.marks is not None else []
    needed += ["embedding_cosine"] if variant.embedding is not None else []
    needed += ["novelty_spearman", "novelty_shift"] if variant.novelty is not None else []
    if missing := [name for name in needed if name not in figures]:
        return f"the export did not record {', '.join(missing)}"
    return ", ".join(text for text, kept in limits_kept(figures, variant.precision).items() if not kept)


def difference(full: Manifest, sha256: str, variant: Manifest, precision: str) -> str:
    """Return what shows that a file is no variant of another, or of another version of it; empty where nothing does.

    A variant may have other fitted values (temperature, thresholds), and may explain fewer layers.

    Args:
        full: manifest of the fp32 file.
        sha256: of that file, hexadecimal.
        variant: manifest of the variant.
        precision: that the variant must be in.
    """
    if variant.precision != precision:
        return f"its precision is {variant.precision}, not {precision}"
    if variant.variant_of and variant.variant_of != sha256:
        return f"it was made of a file with sha256 {variant.variant_of[:12]}…, not {sha256[:12]}…"
    ours, theirs = _facts(full, len(variant.layers)), _facts(variant, len(variant.layers))
    different = [name for name, value in ours.items() if value != theirs[name]]
    return f"it differs from the fp32 file in {', '.join(different)}" if different else ""


def _facts(manifest: Manifest, num_layers: int) -> dict[str, object]:
    marks, origin = manifest.marks, manifest.provenance
    return {
        "name": manifest.name,
        "labels": manifest.labels,
        "geometry": (manifest.resize, manifest.mean, manifest.std),
        "attention": (manifest.attention, manifest.has_attention, manifest.placed_by_centres),
        "layers": [(layer.name, layer.grid) for layer in manifest.layers[:num_layers]],
        "marks": None if marks is None else (marks.marks, marks.table, marks.grid, marks.maps),
        "embedding": manifest.embedding,
        "novelty": manifest.novelty is None,
        "sets": manifest.sets is None,
        "taxonomy": manifest.taxonomy,
        "origin": (origin.dataset, origin.num_train, origin.recipe, origin.seed, origin.commit),
    }
