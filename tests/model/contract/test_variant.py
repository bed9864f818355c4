"""Variants: their names, what ties them to their file, and what they may lose."""

from pathlib import Path
from typing import Any

import pytest

from model.contract.manifest import Layer, Manifest, Provenance
from model.contract.variant import difference, full_path, quality_fault, variant_path
from tests.service.tiny_model import MARKS, marked_manifest, tiny_manifest

SHA256 = "ab" * 32
GOOD = {
    "gate.images": 200.0,
    "gate.top1_drop": 0.2,
    "gate.same_class": 99.0,
    "gate.spearman": 0.98,
    "gate.spearman_median": 0.99,
    "gate.contrast_median": 0.99,
}
OF_MARKS = {
    "gate.marks_change": 0.01,
    "gate.mark_peaks": 95.0,
    "gate.embedding_cosine": 0.99,
    "gate.novelty_spearman": 0.98,
}


def small(**changes: Any) -> Manifest:
    """Return the manifest of an int8 variant of the tiny model, with changes."""
    return tiny_manifest(**{"precision": "int8", "metrics": GOOD, "variant_of": SHA256, **changes})


def test_names_of_files() -> None:
    """The precision stands before the extension, and is found there again."""
    full = Path("cub50/my.model.onnx")
    assert Path("cub50/my.model.int8.onnx") == variant_path(full, "int8")
    assert full == full_path(variant_path(full, "int8"), "int8")
    assert [None, None] == [full_path(full, "int8"), full_path(Path("2.fp16.onnx"), "int8")]


def test_a_variant_may_differ_in_what_is_fitted() -> None:
    """Temperature, metrics and fewer layers do not show another model; nor does a file without the recorded sha256."""
    full = tiny_manifest(layers=(*tiny_manifest().layers, Layer(name="early", channels=1, grid=(2, 2))))
    for variant in (small(), small(variant_of=""), small(temperature=2.0)):
        assert "" == difference(full, SHA256, variant, "int8")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"precision": "fp32"}, "precision is fp32, not int8"),
        ({"variant_of": "cd" * 32}, "cdcdcdcdcdcd"),
        ({"name": "other"}, "name"),
        ({"labels": ("Green bird", "Red bird", "Blue bird", "Grey bird")}, "labels"),
        ({"mean": (0.5, 0.5, 0.5)}, "geometry"),
        ({"layers": tiny_manifest().layers * 2}, "layers"),
        ({"provenance": Provenance(seed=2)}, "origin"),
    ],
)
def test_another_model_is_no_variant(changes: dict[str, Any], named: str) -> None:
    """The first facts that differ are named."""
    assert named in difference(tiny_manifest(), SHA256, small(**changes), "int8")


def test_other_marks_are_another_model() -> None:
    """A variant has the same marks in the same order, or none where there are none."""
    full = marked_manifest()
    same = Manifest(**{**dict(full), "precision": "int8"})
    assert "" == difference(full, SHA256, same, "int8")
    turned = Manifest(**{**dict(marked_manifest(marks=MARKS[::-1])), "precision": "int8"})
    assert "it differs from the fp32 file in marks" == difference(full, SHA256, turned, "int8")
    assert "marks" in difference(tiny_manifest(), SHA256, same, "int8")


def test_quality_must_be_recorded_and_within_the_limits() -> None:
    """What the model has must have been measured; NaN is not within a limit."""
    assert "" == quality_fault(small())
    assert "the export did not record contrast_median, images, same_class, spearman, spearman_median, top1_drop" == (
        quality_fault(small(metrics={"top1": 0.9}))
    )
    assert "top-1 drop in points 0.7 (at most 0.5)" == quality_fault(small(metrics=GOOD | {"gate.top1_drop": 0.7}))
    marked = Manifest(**{**dict(marked_manifest()), "precision": "int8", "metrics": GOOD | OF_MARKS})
    assert "the export did not record novelty_shift" == quality_fault(marked)
    assert "" == quality_fault(marked.model_copy(update={"metrics": GOOD | OF_MARKS | {"gate.novelty_shift": 1.0}}))
    assert "shift of unlike photos in points nan" in quality_fault(
        marked.model_copy(update={"metrics": GOOD | OF_MARKS | {"gate.novelty_shift": float("nan")}})
    )
