"""How good is a network, in torch or as the exported file: accuracy, calibration, and where its maps point.

Every test image is counted, one view each, prepared exactly as the service does.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from model.contract.geometry import Resize
from model.contract.graph import codes_of_best, feeds
from model.contract.manifest import MANIFEST_KEY, Manifest, ManifestError
from model.explain.gradcam import activation_map, channel_gradients
from model.network.network import Network
from training.checkpoint import Selected, load_selected
from training.data.batches import Photos, one_thread, served_photos
from training.data.features import AsFloats, FeatureCache, Features, cached_step
from training.data.samples import Dataset, Sample, hold_out
from training.data.store import PhotoFiles, as_served
from training.data.transforms import Normalise, box_on_input
from training.errors import DatasetError, TrainingError
from training.evaluation.localisation import localisation_figures
from training.evaluation.scores import Floats, Ints, accuracy_figures
from training.recipe import Recipe

Answer = tuple[Floats, Floats, Floats | None]
"""Logits (n, K), Grad-CAM of the predicted class (n, h, w), attention (n, h, w) or None."""
Ask = Callable[[Tensor], Answer]
"""From uint8 images (n, 3, S, S)."""


@dataclass(frozen=True)
class Judged:
    """What a network answered for every image of a part.

    Attributes:
        samples: the images, in order.
        logits: (n, K).
        labels: true classes, (n,).
        gradcam: of the predicted class, (n, h, w).
        attention: (n, h, w), or None where the arm has no map.
        boxes: in pixels of the network's input, (n, 4); NaN where there is none.
        resize: the geometry.
        temperature: of the probabilities.
        names: labels of the classes.
    """

    samples: tuple[Sample, ...]
    logits: Floats
    labels: Ints
    gradcam: Floats
    attention: Floats | None
    boxes: Floats
    resize: Resize
    temperature: float
    names: tuple[str, ...]

    def figures(self) -> dict[str, float]:
        """Return every figure by its name in JSON; localisation only where boxes exist."""
        return {
            **accuracy_figures(self.logits, self.labels, self.temperature),
            **localisation_figures(self.gradcam, self.attention, self.boxes, self.resize.crop),
        }


def part_of(dataset: Dataset, recipe: Recipe | None, part: str) -> Sequence[Sample]:
    """Return the images of `test`, of `held-out`, or `all` of them.

    Raises:
        DatasetError: there are none.
    """
    if part == "test":
        samples: Sequence[Sample] = dataset.test
    elif part == "all":
        samples = (*dataset.train, *dataset.test)
    else:
        if recipe is None:
            raise TrainingError("the file does not say which images were held out")
        samples = hold_out(dataset.train, recipe.data.held_out, recipe.data.held_out_seed)[1]
    if not samples:
        raise DatasetError(f"{dataset.name} has no images in its {part} part; --part all takes what there is")
    return samples


def judge_selected(
    selected: Selected,
    dataset: Dataset,
    samples: Sequence[Sample],
    device: torch.device,
    workers: int,
    visible: bool,
    cache: Path | None = None,
) -> Judged:
    """Ask a run's network, in torch.

    Args:
        selected: weights of the run.
        dataset: what the samples are of.
        samples: to judge by.
        device: to compute on.
        workers: processes that decode photos.
        visible: show progress.
        cache: keep decoded photos (and features of a frozen part) there, for many networks judged by the same photos.

    Raises:
        DatasetError: the data set has a class that the network does not know.
    """
    samples = with_labels(selected.labels, dataset, samples)
    data = selected.recipe.data
    network = selected.network().to(device)
    normalise: Callable[[Tensor], Tensor] = Normalise(data.mean, data.std, device)
    photos: Photos = PhotoFiles([sample.path for sample in samples], as_served(data.resize, dataset.banner))
    features, step = None, None
    if cache is not None:
        photos = served_photos(samples, data, dataset.banner, cache, progress=visible)
        step = cached_step(network, selected.recipe)
    if cache is not None and step is not None:
        kept = FeatureCache(network, step, selected.recipe, cache, device, workers, progress=visible)
        features, normalise = kept.served(photos, samples), AsFloats(device)
    judged = JudgedPhotos(samples, photos, data.resize, features)
    ask = torch_answers(network, normalise, step)
    return _judge(ask, selected.labels, judged, selected.temperature, workers, visible)


def judge_file(
    path: Path, dataset: Dataset, samples: Sequence[Sample], workers: int, visible: bool, threads: int = 0
) -> Judged:
    """Ask an exported file through the graph contract, in ONNX Runtime on the CPU.

    Raises:
        DatasetError: the data set has a class that the network does not know.
        ManifestError: the file has none.
    """
    ask, manifest = onnx_answers(path, threads)
    samples = with_labels(manifest.labels, dataset, samples)
    photos = PhotoFiles([sample.path for sample in samples], as_served(manifest.resize, dataset.banner))
    judged = JudgedPhotos(samples, photos, manifest.resize)
    return _judge(ask, manifest.labels, judged, manifest.temperature, workers, visible)


def torch_answers(network: Network, normalise: Callable[[Tensor], Tensor], step: str | None = None) -> Ask:
    """Return a function that classifies and explains with a torch network (from cached features, given their step)."""

    def ask(images: Tensor) -> Answer:
        with torch.no_grad():
            attended = network.forward_features(normalise(images), step)
            logits = network.forward_head(attended.feature_map)
            alpha = channel_gradients(network, attended, logits.argmax(1))
            gradcam = activation_map(alpha, attended.feature_map)
        attention = None if attended.attention is None else attended.attention.cpu().numpy()
        return logits.cpu().numpy(), gradcam.cpu().numpy(), attention

    return ask


def answers_of(model: Path) -> Ask:
    """Return the function of a run's folder or of an exported file, on the CPU."""
    if model.suffix == ".onnx":
        return onnx_answers(model)[0]
    selected = load_selected(model)
    data = selected.recipe.data
    return torch_answers(selected.network(), Normalise(data.mean, data.std, torch.device("cpu")))


def onnx_answers(path: Path, threads: int = 0) -> tuple[Ask, Manifest]:
    """Return a function that classifies and explains with an exported file, and the file's manifest."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    data = path.read_bytes()
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the binding raises its own classes, one a status code, without a common root
        raise ManifestError(f"{path.name} cannot be loaded: {error}") from error
    manifest = Manifest.from_metadata({MANIFEST_KEY: session.get_modelmeta().custom_metadata_map.get(MANIFEST_KEY)})
    wanted = ["logits", "gradcam", *(["attention"] if manifest.has_attention else [])]

    def ask(images: Tensor) -> Answer:
        pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
        inputs = feeds(pixels, *codes_of_best(len(pixels), manifest.num_classes))
        logits, gradcam, *rest = session.run(wanted, inputs)
        return logits, gradcam[:, 0], rest[0] if rest else None

    return ask, manifest


class JudgedPhotos(TorchDataset[tuple[Tensor, int, Tensor]]):
    """Photos as the service prepares them (or their cached features), with their box on the network's input.

    Args:
        samples: what is known of the photos.
        photos: prepared.
        resize: how.
        features: to give out instead of pixels.
    """

    def __init__(
        self, samples: Sequence[Sample], photos: Photos, resize: Resize, features: Features | None = None
    ) -> None:
        self.samples, self.resize = tuple(samples), resize
        self._photos, self._features = photos, features

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int, Tensor]:
        sample = self.samples[index]
        pixels, size = self._photos[index]
        box = torch.full((4,), torch.nan) if sample.box is None else box_on_input(sample.box, size, self.resize)
        if self._features is not None:
            return self._features.get(0, index), sample.label, box
        return torch.from_numpy(np.array(pixels)).permute(2, 0, 1), sample.label, box


def _judge(
    ask: Ask,
    names: tuple[str, ...],
    photos: JudgedPhotos,
    temperature: float,
    workers: int,
    visible: bool,
    batch_size: int = 32,
) -> Judged:
    loader = DataLoader(photos, batch_size, num_workers=workers, worker_init_fn=one_thread)
    answers, labels, boxes = [], [], []
    for images, batch_labels, batch_boxes in _shown(loader, visible):
        answers.append(ask(images))
        labels.append(batch_labels.numpy())
        boxes.append(batch_boxes.numpy())
    logits, gradcam, attention = zip(*answers, strict=True)
    return Judged(
        photos.samples,
        np.concatenate(logits),
        np.concatenate(labels),
        np.concatenate(gradcam),
        None if attention[0] is None else np.concatenate(attention),
        np.concatenate(boxes),
        photos.resize,
        temperature,
        names,
    )


def _shown(loader: DataLoader[Any], visible: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    yield from tqdm(loader, desc="judging", unit="batch", disable=None if visible else True, leave=False)


def with_labels(labels: Sequence[str], dataset: Dataset, samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples with the class numbers of a network, whose classes the data set may have but some of.

    Raises:
        DatasetError: the data set has a class that the network does not know.
    """
    index = {label: number for number, label in enumerate(labels)}
    # Earlier networks left out every number in front of a name.
    names = {label: label if label in index else re.sub(r"^\d+[. ]", "", label) for label in dataset.labels}
    if unknown := [label for label in dataset.labels if names[label] not in index]:
        different = [f"{a!r} / {b!r}" for a, b in zip(labels, dataset.labels, strict=False) if a != b][:3]
        raise DatasetError(
            f"the network has {len(labels)} classes, {dataset.name} has {dataset.num_classes}, "
            f"{len(unknown)} of them unknown to it ({', '.join(different or map(repr, unknown[:3]))})"
        )
    return [replace(sample, label=index[names[dataset.labels[sample.label]]]) for sample in samples]


def predictions_csv(judged: Judged) -> str:
    """Return one line an image: file, true and predicted label, probability."""
    import csv
    import io

    from model.contract.graph import softmax

    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["file", "label", "predicted", "probability", "correct"])
    probabilities: npt.NDArray[np.float64] = softmax(judged.logits, judged.temperature)
    for sample, row in zip(judged.samples, probabilities, strict=True):
        best = int(row.argmax())
        label = judged.names[sample.label]
        writer.writerow([sample.path.name, label, judged.names[best], f"{row[best]:.4f}", int(best == sample.label)])
    return text.getvalue()
