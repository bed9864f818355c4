"""From a run, or from an exported file, to one `.onnx` file: what the manifest says, and the images of the check."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.contract.geometry import Resize
from model.contract.manifest import Layer, Manifest, Provenance, synthetic_images
from model.export.export import WeightsDtype, export, load_network
from model.export.parity import ParityReport
from model.export.quality_limits import HeldOut
from model.network.network import Network
from training.checkpoint import Selected, load_selected
from training.data.prepared import NUM_PARITY_IMAGES, kept_parity_images, parity_images, prepared_images
from training.data.samples import Dataset, hold_out
from training.errors import TrainingError
from training.recipe import Recipe


@dataclass(frozen=True)
class Source:
    """A network with the manifest it will carry.

    Attributes:
        network: in evaluation mode.
        manifest: what the exporter cannot know by itself.
        images: prepared, for the parity check, uint8 (n, S, S, 3).
        images_are_real: whether they are photos rather than synthetic ones.
    """

    network: Network
    manifest: Manifest
    images: npt.NDArray[np.uint8]
    images_are_real: bool


def load_source(path: Path, name: str | None = None, dataset: Dataset | None = None) -> Source:
    """Read a run's folder or an exported file.

    Args:
        path: of either.
        name: of the model; by default the run's or the file's own.
        dataset: whose test photos the export is checked on; by default those the run kept.

    Raises:
        CheckpointError: the run has no selected weights.
        ManifestError: the file is not one of fieldmark's.
    """
    if path.suffix == ".onnx":
        network, manifest = load_network(path)
        if name:
            manifest = manifest.model_copy(update={"name": name})
    else:
        selected = load_selected(path)
        network, manifest = selected.network(), manifest_of(selected, name or _model_name(path))
    if dataset is not None:
        samples = dataset.test or dataset.train
        return Source(network, manifest, parity_images(samples, manifest.resize, dataset.banner), True)
    kept = kept_parity_images(path)
    if kept is not None:
        return Source(network, manifest, kept, True)
    return Source(network, manifest, synthetic_images(0, NUM_PARITY_IMAGES, manifest.input_size), False)


def publish(
    source: Source, path: Path, *, weights_dtype: WeightsDtype = "fp16", temperature: float | None = None
) -> ParityReport:
    """Write the file, if it computes what torch computes, and compare it with other implementations.

    Args:
        source: of `load_source`.
        path: of the file.
        weights_dtype: in which weights are stored.
        temperature: instead of the one fitted on the held-out part.

    Raises:
        ParityError: it does not; nothing is written.
    """
    manifest = source.manifest
    if temperature is not None:
        if temperature <= 0:
            raise TrainingError("the temperature must be positive")
        manifest = manifest.model_copy(update={"temperature": temperature})
    return export(source.network, manifest, path, images=source.images, weights_dtype=weights_dtype, peers=True)


def manifest_of(selected: Selected, name: str) -> Manifest:
    """Return what a run knows of its network; the exporter adds what only the graph can tell."""
    recipe, facts = selected.recipe, selected.facts
    run = {key: facts[key] for key in ("skipped_damaged",) if key in facts}
    return Manifest(
        name=name,
        labels=selected.labels,
        resize=recipe.data.resize,
        mean=recipe.data.mean,
        std=recipe.data.std,
        temperature=selected.temperature,
        network=selected.network_config().to_dict(),
        attention=recipe.network.attention,
        # The exporter replaces it with the layers of the graph.
        layers=(Layer(name="last", channels=1, grid=(1, 1)),),
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
    dataset: Dataset, recipe: Recipe, resize: Resize, most: int = 200
) -> tuple[HeldOut, npt.NDArray[np.uint8]]:
    """Return held-out photos to measure a smaller precision on, and photos trained on for its calibration.

    Args:
        dataset: the run's.
        recipe: says which photos were held out.
        resize: the manifest's geometry.
        most: photos of either.

    Raises:
        TrainingError: the run held nothing out.
    """
    kept, held = hold_out(dataset.train, recipe.data.held_out, recipe.data.held_out_seed)
    if not held:
        raise TrainingError("the run held no photos out: there is nothing to judge a smaller precision by")
    held = held[:: max(1, len(held) // most)][:most]
    labels = np.array([sample.label for sample in held], np.int64)
    images = prepared_images(held, resize, dataset.banner)
    calibration = kept[:: max(1, len(kept) // most)][:most]
    return HeldOut(images, labels), prepared_images(calibration, resize, dataset.banner)


def _model_name(run: Path) -> str:
    kept = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in run.resolve().name)
    return kept.lstrip("._-")[:64] or "model"
