"""Evaluate a network, in torch or as the exported file: accuracy, calibration, and where its maps point.

Every test image counts, one view each, prepared exactly as the service does.
"""

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from model.contract.geometry import Resize
from model.contract.graph import codes_of_best, feeds, softmax
from model.contract.manifest import MANIFEST_KEY, Manifest, ManifestError
from model.explain.gradcam import activation_map, channel_gradients
from model.network.network import Network
from training.checkpoint import Selected
from training.data.batches import Items, one_thread, served_photos
from training.data.features import FeatureCache, as_floats, cached_step
from training.data.samples import Dataset, Sample, hold_out
from training.data.store import PhotoFiles, Photos, as_served
from training.data.transforms import Normalise, box_on_input
from training.errors import DatasetError, TrainingError
from training.evaluation.localisation import localisation_figures
from training.evaluation.scores import Floats, Ints, accuracy_figures
from training.recipe import Recipe

BATCH = 32
Prediction = tuple[Floats, Floats, Floats | None]
"""Logits (n, K), Grad-CAM of the predicted class (n, h, w), attention (n, h, w) or None."""
Predict = Callable[[Tensor], Prediction]
"""From uint8 images (n, 3, S, S)."""


@dataclass(frozen=True)
class Evaluation:
    """The output of a network for every image of a part.

    Attributes:
        samples: the images, in order, with the network's class numbers.
        logits: (n, K).
        gradcam: of the predicted class, (n, h, w).
        attention: (n, h, w), or None where the arm has no map.
        boxes: in pixels of the network's input, (n, 4); NaN where there is none.
        resize: the geometry.
        temperature: of the probabilities.
        names: labels of the classes.
        predict: the network.
    """

    samples: tuple[Sample, ...]
    logits: Floats
    gradcam: Floats
    attention: Floats | None
    boxes: Floats
    resize: Resize
    temperature: float
    names: tuple[str, ...]
    predict: Predict

    @property
    def labels(self) -> Ints:
        """True classes, (n,)."""
        return np.array([sample.label for sample in self.samples], np.int64)

    @property
    def probabilities(self) -> Floats:
        """Calibrated, (n, K)."""
        return softmax(self.logits, self.temperature)

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
            raise TrainingError("the file does not record which images were held out")
        samples = hold_out(dataset.train, recipe.data.held_out, recipe.data.held_out_seed)[1]
    if not samples:
        raise DatasetError(f"{dataset.name} has no images in its {part} part; --part all takes all images")
    return samples


def evaluate_run(
    selected: Selected,
    dataset: Dataset,
    samples: Sequence[Sample],
    device: torch.device,
    workers: int,
    visible: bool,
    cache: Path | None = None,
) -> Evaluation:
    """Evaluate a run's network, in torch.

    Args:
        selected: weights of the run.
        dataset: of the samples.
        samples: to evaluate on.
        device: to compute on.
        workers: processes that decode photos.
        visible: show progress.
        cache: keep decoded photos (and features of a frozen part) there, to evaluate many networks on them.

    Raises:
        DatasetError: the data set has a class that the network does not know.
    """
    samples = with_labels(selected.labels, dataset, samples)
    recipe, data = selected.recipe, selected.recipe.data
    network = selected.network().to(device)
    normalise: Callable[[Tensor], Tensor] = Normalise(data.mean, data.std, device)
    features = step = None
    if cache is None:
        photos: Photos = _photo_files(samples, data.resize, dataset.banner)
    else:
        photos = served_photos(samples, data, dataset.banner, cache, progress=visible)
        step = cached_step(network, recipe)
        if step is not None:
            kept = FeatureCache(network, step, recipe, cache, device, workers, progress=visible)
            features, normalise = kept.prepared(photos, samples), partial(as_floats, device=device)
    boxed = BoxedPhotos(samples, photos, data.resize, features)
    predict = torch_predictor(network, normalise, step)
    return _evaluate(predict, selected.labels, boxed, selected.temperature, workers, visible)


def evaluate_file(
    path: Path, dataset: Dataset, samples: Sequence[Sample], workers: int, visible: bool, threads: int = 0
) -> Evaluation:
    """Evaluate an exported file through the graph contract, in ONNX Runtime on the CPU.

    Raises:
        DatasetError: the data set has a class that the network does not know.
        ManifestError: the file has none.
    """
    predict, manifest = onnx_predictor(path, threads)
    samples = with_labels(manifest.labels, dataset, samples)
    boxed = BoxedPhotos(samples, _photo_files(samples, manifest.resize, dataset.banner), manifest.resize)
    return _evaluate(predict, manifest.labels, boxed, manifest.temperature, workers, visible)


def _photo_files(samples: Sequence[Sample], resize: Resize, banner: int) -> PhotoFiles:
    return PhotoFiles([sample.path for sample in samples], as_served(resize, banner))


def torch_predictor(network: Network, normalise: Callable[[Tensor], Tensor], step: str | None = None) -> Predict:
    """Return a function that classifies and explains with a torch network.

    Args:
        network: in evaluation mode.
        normalise: from the images, or the features, to floats.
        step: of the backbone whose cached features are the input; None: images are.
    """

    def predict(images: Tensor) -> Prediction:
        with torch.no_grad():
            attended = network.forward_features(normalise(images), step)
            logits = network.forward_head(attended.feature_map)
            alpha = channel_gradients(network, attended, logits.argmax(1))
            gradcam = activation_map(alpha, attended.feature_map)
        attention = None if attended.attention is None else attended.attention.cpu().numpy()
        return logits.cpu().numpy(), gradcam.cpu().numpy(), attention

    return predict


def onnx_predictor(path: Path, threads: int = 0) -> tuple[Predict, Manifest]:
    """Return a function that classifies and explains with an exported file, and the file's manifest."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    data = path.read_bytes()
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the binding has one class for each status code, without a common base
        raise ManifestError(f"{path.name} cannot be loaded: {error}") from error
    manifest = Manifest.from_metadata({MANIFEST_KEY: session.get_modelmeta().custom_metadata_map.get(MANIFEST_KEY)})
    outputs = ["logits", "gradcam", *(["attention"] if manifest.has_attention else [])]

    def predict(images: Tensor) -> Prediction:
        pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
        inputs = feeds(pixels, *codes_of_best(len(pixels), manifest.num_classes))
        logits, gradcam, *rest = session.run(outputs, inputs)
        return logits, gradcam[:, 0], rest[0] if rest else None

    return predict, manifest


class BoxedPhotos(TorchDataset[tuple[Tensor, Tensor]]):
    """Photos as the service prepares them (or their cached features), each with its box on the network's input.

    Args:
        samples: of the photos.
        photos: prepared.
        resize: the geometry.
        features: to return instead of pixels.
    """

    def __init__(
        self, samples: Sequence[Sample], photos: Photos, resize: Resize, features: Items | None = None
    ) -> None:
        self.samples, self.resize = tuple(samples), resize
        self._photos, self._features = photos, features

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels, size = self._photos[index]
        known = self.samples[index].box
        box = torch.full((4,), torch.nan) if known is None else box_on_input(known, size, self.resize)
        if self._features is not None:
            return self._features[index][0], box
        return torch.from_numpy(np.array(pixels)).permute(2, 0, 1), box


def _evaluate(
    predict: Predict, names: tuple[str, ...], photos: BoxedPhotos, temperature: float, workers: int, visible: bool
) -> Evaluation:
    loader = DataLoader(photos, BATCH, num_workers=workers, worker_init_fn=one_thread)
    bar = tqdm(loader, desc="evaluating", unit="batch", disable=None if visible else True, leave=False)
    batches = [(*predict(images), boxes.numpy()) for images, boxes in bar]
    logits, gradcam, attention, boxes = zip(*batches, strict=True)
    return Evaluation(
        photos.samples,
        np.concatenate(logits),
        np.concatenate(gradcam),
        None if attention[0] is None else np.concatenate(attention),
        np.concatenate(boxes),
        photos.resize,
        temperature,
        names,
        predict,
    )


def with_labels(labels: Sequence[str], dataset: Dataset, samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples with the class numbers of a network, which may know more classes than the data set has.

    Raises:
        DatasetError: the data set has a class that the network does not know.
    """
    index = {label: number for number, label in enumerate(labels)}
    # Labels of older networks lack every number in front of a name.
    names = {label: label if label in index else re.sub(r"^\d+[. ]", "", label) for label in dataset.labels}
    if unknown := [label for label in dataset.labels if names[label] not in index]:
        different = [f"{a!r} / {b!r}" for a, b in zip(labels, dataset.labels, strict=False) if a != b][:3]
        raise DatasetError(
            f"the network has {len(labels)} classes, {dataset.name} has {dataset.num_classes}, "
            f"{len(unknown)} of them unknown to it ({', '.join(different or map(repr, unknown[:3]))})"
        )
    return [replace(sample, label=index[names[dataset.labels[sample.label]]]) for sample in samples]


def predictions_csv(evaluation: Evaluation) -> str:
    """Return one line per image: file, true and predicted label, probability, whether they agree."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["file", "label", "predicted", "probability", "correct"])
    names = evaluation.names
    for sample, row in zip(evaluation.samples, evaluation.probabilities, strict=True):
        best = int(row.argmax())
        correct = int(best == sample.label)
        writer.writerow([sample.path.name, names[sample.label], names[best], f"{row[best]:.4f}", correct])
    return text.getvalue()
