"""A variant: the same model in a smaller precision, in a file beside it, within limits of what it may lose.

`NAME/VERSION.onnx` has its variants in `NAME/VERSION.int8.onnx` and `NAME/VERSION.fp16.onnx`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from model.contract.manifest import Manifest

GATE = "gate."
"""Begins the names of a variant's figures in its manifest's metrics."""


@dataclass(frozen=True)
class QualityLimits:
    """The most that a precision may lose.

    Attributes:
        top1_drop: percentage points of top-1 accuracy.
        same_class: least share of photos of which both name the same class, percent.
        spearman: least rank correlation of raw map cells with fp32.
        spearman_median: least median over photos of the rank correlation of their map.
        contrast_median: likewise, of the map of the first class against the second.
        marks_change: mean absolute change of the probability that a mark is seen.
        mark_peaks: least share of photos whose mark map peaks where fp32's does, or one cell beside it, percent.
        embedding_cosine: least mean cosine between a photo's vector and its vector in fp32.
        novelty_spearman: least rank correlation of photos' novelty with fp32.
        novelty_shift: of the share of photos above the value that a twentieth exceeds in fp32, percentage points.
    """

    top1_drop: float
    same_class: float
    spearman: float
    spearman_median: float
    contrast_median: float
    marks_change: float
    mark_peaks: float
    embedding_cosine: float
    novelty_spearman: float
    novelty_shift: float


QUALITY_LIMITS = {
    "fp16": QualityLimits(
        top1_drop=0.1,
        same_class=99.5,
        spearman=0.999,
        spearman_median=0.999,
        contrast_median=0.999,
        marks_change=0.002,
        mark_peaks=98.0,
        embedding_cosine=0.999,
        novelty_spearman=0.999,
        novelty_shift=0.5,
    ),
    "int8": QualityLimits(
        top1_drop=0.5,
        same_class=98.5,
        spearman=0.98,
        spearman_median=0.99,
        contrast_median=0.98,
        marks_change=0.01,
        mark_peaks=90.0,
        embedding_cosine=0.99,
        novelty_spearman=0.98,
        novelty_shift=3.0,
    ),
}


WORDS = {
    "top1_drop": ("top-1 drop in points", True),
    "same_class": ("same class in percent", False),
    "spearman": ("rank correlation of map cells", False),
    "spearman_median": ("median rank correlation of maps", False),
    "contrast_median": ("median rank correlation of contrast maps", False),
    "marks_change": ("change of marks", True),
    "mark_peaks": ("peaks of mark maps in place, in percent", False),
    "embedding_cosine": ("cosine of embeddings", False),
    "novelty_spearman": ("rank correlation of novelty", False),
    "novelty_shift": ("shift of unlike photos in points", True),
}
"""Words for every limit, and whether it is the most that is allowed."""


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
    # One photo, of few, may always cross the threshold of novelty.
    limits = replace(limits, novelty_shift=max(limits.novelty_shift, 100 / figures["images"]))
    kept = {}
    for name, (words, highest) in WORDS.items():
        if name in figures:
            value, limit = figures[name], getattr(limits, name)
            # Accuracies are multiples of 1/n: the last bit of a subtraction must not decide.
            within = value <= limit + 1e-9 if highest else value >= limit - 1e-9
            kept[f"{words} {value:.4g} ({'at most' if highest else 'at least'} {limit:g})"] = within
    return kept


def quality_fault(variant: Manifest) -> str:
    """Return why the recorded quality of a variant does not suffice; empty where it does."""
    figures = {name.removeprefix(GATE): value for name, value in variant.metrics.items() if name.startswith(GATE)}
    needed = {"images", *WORDS}
    needed -= {"marks_change", "mark_peaks"} if variant.marks is None else set()
    needed -= {"embedding_cosine"} if variant.embedding is None else set()
    needed -= {"novelty_spearman", "novelty_shift"} if variant.novelty is None else set()
    if missing := sorted(needed - figures.keys()):
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
