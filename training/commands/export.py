"""What the export of a run, or of an exported file, needs: network, manifest, and the images of the check."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model.contract.geometry import Resize
from model.contract.manifest import Layer, Manifest, Provenance, synthetic_images
from model.explain.fitted import NOTHING, Fitted
from model.export.export import load_fitted, load_network
from model.export.quality_limits import HeldOut
from model.network.network import Network
from training.calibration.embedding import embedding_axes
from training.calibration.fitted import fitted_to, sets_of
from training.calibration.individual import individual_of
from training.checkpoint import Selected, load_selected, network_config
from training.data.layouts.taxonomy_csv import read_taxonomy
from training.data.prepared import NUM_PARITY_IMAGES, kept_parity_images, parity_images, prepared_images
from training.data.samples import Dataset, Sample, hold_out, spread
from training.data.transforms import Normalise
from training.errors import TrainingError
from training.recipe import Recipe

MOST_POOLED = 1024
"""Limit of photos to which an embedding is fitted: four for each axis."""
POOLED_AT_ONCE = 16


@dataclass(frozen=True)
class Source:
    """A network with its manifest.

    Attributes:
        network: in evaluation mode.
        manifest: without what the exporter adds.
        images: prepared, for the parity check, uint8 (n, S, S, 3).
        images_are_real: whether they are photos or synthetic.
        fitted: what was fitted to photos beside the network, as far as there were any.
    """

    network: Network
    manifest: Manifest
    images: npt.NDArray[np.uint8]
    images_are_real: bool
    fitted: Fitted = NOTHING


def load_source(
    path: Path,
    name: str | None = None,
    dataset: Dataset | None = None,
    temperature: float | None = None,
    mark_maps: str | None = None,
    placing: str | None = None,
    missing: bool | None = None,
    taxonomy: Path | None = None,
) -> Source:
    """Read a run's folder or an exported file.

    Args:
        path: of either.
        name: of the model; by default the run's or the file's own.
        dataset: whose test photos the export is checked on, by default those the run kept; and to whose training
            photos an embedding is fitted that neither the run nor the file has.
        temperature: instead of the one fitted on the held-out part.
        mark_maps: what the maps of marks are, instead of what they are already.
        placing: how class maps are laid on the photo, `evenly` or by their cells' `centres`; likewise.
        missing: whether marks that are not seen may be called missing; likewise.
        taxonomy: table of the classes' taxa, instead of the one that the data or the file had.

    Raises:
        TrainingError: the temperature is not positive, or there are no marks.
        CheckpointError: the run has no selected weights.
        DatasetError: the table of taxa cannot be used.
        ManifestError: the file is not one of fieldmark's.
    """
    if temperature is not None and temperature <= 0:
        raise TrainingError("the temperature must be positive")
    run = path if path.is_dir() else path.parent
    if path.suffix == ".onnx":
        network, manifest = load_network(path)
        fitted = load_fitted(path)
    else:
        selected = load_selected(path)
        network, manifest = selected.network(), manifest_of(selected, _model_name(path))
        fitted = fitted_to(run, selected.marks)
    changes: dict[str, Any] = {"name": name or manifest.name, "temperature": temperature or manifest.temperature}
    if path.suffix != ".onnx":
        changes["sets"] = sets_of(run, changes["temperature"])
        changes["individual"] = individual_of(run, changes["temperature"])
    elif changes["temperature"] != manifest.temperature:
        # They are fitted to probabilities, and the answers behind these stay with the run.
        changes["sets"] = changes["individual"] = None
    if taxonomy is not None:
        changes["taxonomy"] = read_taxonomy(taxonomy, manifest.labels)
    if placing is not None:
        changes["placed_by_centres"] = placing == "centres"
    of_marks = {name: value for name, value in (("maps", mark_maps), ("missing", missing)) if value is not None}
    if of_marks:
        if manifest.marks is None:
            raise TrainingError(f"{path} has no marks, and so none of their options")
        changes["marks"] = manifest.marks.model_copy(update=of_marks)
    manifest = Manifest(**{**dict(manifest), **changes})
    if dataset is not None and fitted.embedding is None and dataset.train:
        pooled = pooled_vectors(network, manifest, spread(dataset.train, MOST_POOLED), dataset.banner)
        fitted = fitted._replace(embedding=embedding_axes(pooled))
    kept = kept_parity_images(path)
    if dataset is not None:
        images = parity_images(dataset.test or dataset.train, manifest.resize, dataset.banner)
    elif kept is not None:
        images = kept
    else:
        images = synthetic_images(0, NUM_PARITY_IMAGES, manifest.input_size)
    return Source(network, manifest, images, dataset is not None or kept is not None, fitted)


@torch.no_grad()
def pooled_vectors(
    network: Network, manifest: Manifest, samples: Sequence[Sample], banner: int
) -> npt.NDArray[np.floating]:
    """Return the vector that the network's head reads of each photo, (n, C).

    Args:
        network: in evaluation mode.
        manifest: for geometry and normalisation.
        samples: of the photos.
        banner: rows to crop off the bottom of every photo, pixels.
    """
    normalise = Normalise(manifest.mean, manifest.std, torch.device("cpu"))
    batches = [samples[start : start + POOLED_AT_ONCE] for start in range(0, len(samples), POOLED_AT_ONCE)]
    return np.concatenate(
        [
            network.pool(network.forward_features(normalise(images.permute(0, 3, 1, 2))).feature_map).numpy()
            for images in (torch.from_numpy(prepared_images(batch, manifest.resize, banner)) for batch in batches)
        ]
    )


def manifest_of(selected: Selected, name: str) -> Manifest:
    """Return the manifest of a run; the exporter adds what depends on the graph."""
    recipe, facts = selected.recipe, selected.facts
    run = {key: facts[key] for key in ("skipped_damaged",) if key in facts}
    run |= {"folds": facts["folds"]["count"]} if "folds" in facts else {}
    return Manifest(
        name=name,
        labels=selected.labels,
        resize=recipe.data.resize,
        mean=recipe.data.mean,
        std=recipe.data.std,
        temperature=selected.temperature,
        network=network_config(recipe, len(selected.labels), selected.marks).to_dict(),
        attention=recipe.network.attention,
        # The exporter replaces it with the layers of the graph.
        layers=(Layer(name="last", channels=1, grid=(1, 1)),),
        marks=selected.marks and selected.marks.listed(recipe.network.mark_between),
        taxonomy=selected.taxonomy,
        provenance=Provenance(
            dataset=facts["dataset"],
            num_train=facts["num_train"],
            recipe={**recipe.to_dict(), "backbone_weights": facts["weights"], "selected_epoch": selected.epoch, **run},
            seed=recipe.seed,
            commit=facts["commit"],
            licence=facts["licence"],
            tools=facts["tools"],
        ),
        metrics={f"held_out_{key}": value for key, value in selected.metrics.items() if key != "temperature"},
    )


def variant_photos(
    dataset: Dataset, recipe: Recipe, resize: Resize, most: int = 400, calibrated: int = 100
) -> tuple[HeldOut, npt.NDArray[np.uint8]]:
    """Return photos for the quality limits of a smaller precision, and other training photos for its calibration.

    The first are held-out ones; a run that was trained on all photos, as after folds, is compared with fp32 on some
    of those.

    Args:
        dataset: the run's.
        recipe: of the run; selects the held-out photos.
        resize: the manifest's geometry.
        most: limit of photos to compare on.
        calibrated: limit of photos to calibrate on.

    Raises:
        TrainingError: there are too few photos.
    """
    kept, held = hold_out(dataset.train, recipe.data.held_out, recipe.data.held_out_seed)
    calibration = spread(kept, min(calibrated, max(1, len(kept) // 2)))
    trained_on = not held
    if trained_on:
        chosen = {id(sample) for sample in calibration}
        held = [sample for sample in kept if id(sample) not in chosen]
    held = spread(held, most)
    if not held or not calibration:
        raise TrainingError("a smaller precision needs training photos to calibrate on and others to be measured on")
    labels = np.array([sample.label for sample in held], np.int64)
    images = prepared_images(held, resize, dataset.banner)
    return HeldOut(images, labels, trained_on), prepared_images(calibration, resize, dataset.banner)


def _model_name(run: Path) -> str:
    kept = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in run.resolve().name)
    return kept.lstrip("._-")[:64] or "model"
