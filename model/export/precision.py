"""Smaller arithmetic, written only within its quality limits: fp16 for GPUs, static int8 for CPUs.

In both, the head, the probabilities, what reads marks, embedding and novelty, and the sums of Grad-CAM stay in float32,
as do inputs and outputs.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from torch import nn

from model.contract.manifest import Manifest
from model.contract.variant import GATE, difference, full_path
from model.explain.fitted import NOTHING, Fitted
from model.export.export import ExportError, architecture, check_images, complete, explainer_of, write
from model.export.int8.quantise import quantise
from model.export.parity import ParityReport, check_parity
from model.export.quality_limits import HeldOut, check, measure
from model.export.running import session
from model.export.tracing import trace

HALF_TOLERANCE = 0.05
"""Of the fp16 graph against float64, in the units of `ParityReport`: a sanity check; the quality limits decide."""


def export_variant(
    network: nn.Module,
    manifest: Manifest,
    path: Path,
    precision: Literal["fp16", "int8"],
    *,
    held_out: HeldOut,
    calibration: npt.NDArray[np.uint8],
    layer: str | Sequence[str] = (),
    fitted: Fitted = NOTHING,
) -> dict[str, float]:
    """Write a network in a smaller precision, if it stays within its quality limits on photos.

    The comparison is with fp32 as `model.export.export` writes it by default, with weights rounded to fp16: the file
    that would be served instead.

    An int8 file explains the last stage only and holds no weights to build the network from again.

    Args:
        network: as for `model.export.export`.
        manifest: likewise.
        path: of the file.
        precision: `fp16`, or static `int8` (QDQ, per channel).
        held_out: photos of train for the comparison, not trained on as far as there are any.
        calibration: other photos of train, from which int8 takes ranges and rounding, RGB, uint8, (n, S, S, 3).
        layer: of a foreign module, as for `model.export.export`.
        fitted: likewise.

    Returns:
        What `model.export.quality_limits.measure` found; the manifest's metrics hold it too, each name behind `gate.`.

    Raises:
        ExportError: network, manifest and images do not fit together, there is nothing to quantise, or the path
            `NAME.int8.onnx` names a variant of a file `NAME.onnx` that is of another model.
        QualityError: the variant loses too much; nothing was written.
    """
    for images in (held_out.images, calibration):
        check_images(images, manifest)
    if len(held_out.labels) != len(held_out.images):
        raise ExportError(f"{len(held_out.labels)} labels for {len(held_out.images)} held-out images")
    # Against the fp32 file as it is served: its weights are stored as fp16.
    explainer = explainer_of(network, manifest, layer, "fp16", fitted)
    explainer.classifier.layers = explainer.classifier.layers[:1]
    reference = trace(explainer, manifest.input_size)
    if precision == "int8":
        model = quantise(reference, explainer, calibration)
        runtime = session(model.SerializeToString())
        report = ParityReport(0)
        facts = {**architecture(network), "network": {}}
    else:
        explainer = explainer_of(network, manifest, layer, "fp16", fitted)
        explainer.classifier.feature_extractor.half()
        model = trace(explainer, manifest.input_size)
        runtime = session(model.SerializeToString())
        report = check_parity(runtime, explainer, calibration[:3], HALF_TOLERANCE)
        facts = architecture(network)
    figures = measure(reference.SerializeToString(), runtime, held_out)
    check(figures, precision)
    measured = manifest.metrics | {f"{GATE}{name}": value for name, value in figures.items()}
    facts |= {"precision": precision, "weights_dtype": precision, "metrics": measured}
    completed = complete(manifest, model, explainer, report, facts, runtime)
    write(model, completed.model_copy(update={"variant_of": _sha256_beside(path, completed)}), path)
    return figures


def _sha256_beside(path: Path, variant: Manifest) -> str:
    """Return the sha256 of the fp32 file that a variant is written beside; empty where there is none.

    Raises:
        ExportError: that file is of another model, and would be served with this variant.
    """
    full = full_path(path, variant.precision)
    if full is None or not full.is_file():
        return ""
    sha256 = hashlib.sha256(full.read_bytes()).hexdigest()
    described = Manifest.from_metadata({entry.key: entry.value for entry in onnx.load(str(full)).metadata_props})
    written = Manifest.from_metadata(variant.to_metadata())  # as it will be read: lists for tuples
    if fault := difference(described, sha256, written, variant.precision):
        raise ExportError(f"{path} would be no variant of {full}: {fault}")
    return sha256
