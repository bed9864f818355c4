"""Evaluate a network, in torch or as the exported file: accuracy, calibration, and where its maps point.

Every test image counts, one view each, prepared exactly as the service does.
"""

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from model.contract.geometry import Resize
from model.contract.graph import softmax
from model.contract.manifest import Marks, Novelty
from model.contract.placing import Centres, at_centres
from model.contract.sets import Sets
from model.explain.embedding import Embedding
from model.explain.fitted import NOTHING, Fitted
from model.explain.marks import MarkReader
from model.explain.novelty import NoveltyScore
from training.checkpoint import Selected
from training.data.batches import Items, served_photos
from training.data.features import FeatureCache, StageMaps, as_floats, cached_step
from training.data.samples import Attributes, Dataset, Sample, hold_out
from training.data.store import PhotoFiles, Photos, as_served
from training.data.transforms import Normalise
from training.data.workers import loader
from training.errors import DatasetError, TrainingError
from training.evaluation.maps.annotations import Annotation, annotation_of
from training.evaluation.maps.parts import part_differences
from training.evaluation.marks.readings import MarkList, Readings, joined_readings, read
from training.evaluation.predictors import Predict, Prediction, joined, onnx_predictor, torch_predictor
from training.evaluation.scores import Floats, Ints
from training.recipe import Recipe

BATCH = 32
BATCH_OF_EVERY_LAYER = 4
"""Gradients of the first layers are large: 32 photos of 288 pixels took 6 GB."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The output of a network for every image of a part.

    Attributes:
        samples: the images, in order, with the network's class numbers.
        prediction: logits and maps.
        annotations: boxes, masks and parts on the network's input.
        resize: the geometry.
        temperature: of the probabilities.
        names: labels of the K classes.
        parts: names of the parts.
        attributes: of the K classes, NaN in the rows of classes that the data set has not; None without a table.
        centres: where the cells of layers look, by layer; those where it is known.
        placed_by_centres: whether the service draws the class's maps by them.
        marks: that the network was trained on; None: it has none.
        readings: what it says of them; None likewise.
        sets: how the file makes prediction sets; None: it has no calibration for them.
        novelty: threshold and quantiles of its novelty; None where it has none.
    """

    samples: tuple[Sample, ...]
    prediction: Prediction
    annotations: tuple[Annotation, ...]
    resize: Resize
    temperature: float
    names: tuple[str, ...]
    parts: tuple[str, ...] = ()
    attributes: Attributes | None = None
    centres: Mapping[str, Centres] = field(default_factory=dict)
    placed_by_centres: bool = False
    marks: MarkList | None = None
    readings: Readings | None = None
    sets: Sets | None = None
    novelty: Novelty | None = None

    @property
    def labels(self) -> Ints:
        """True classes, (n,)."""
        return np.array([sample.label for sample in self.samples], np.int64)

    @property
    def probabilities(self) -> Floats:
        """Calibrated, (n, K)."""
        return softmax(self.prediction.logits, self.temperature)

    @property
    def right(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Whether each image gets its class, (n,)."""
        return np.asarray(self.prediction.logits.argmax(axis=1) == self.labels)

    @cached_property
    def part_differences(self) -> Floats | None:
        """How much two classes differ at each part, (K, K, P); None where no table or no part says so."""
        if self.attributes is None or not self.parts:
            return None
        return part_differences(self.attributes.table, self.attributes.names, self.parts)

    def placed(self, maps: Floats, layer: str = "") -> Floats:
        """Return maps of a layer's cells, (n, h, w), on the grid on which the service draws them.

        Args:
            maps: cell by cell.
            layer: whose cells they are; empty: the last one's.
        """
        centres = self.centres.get(layer or next(iter(self.prediction.gradcam)))
        if centres is None or not self.placed_by_centres:
            return maps
        return at_centres(maps, centres, self.resize.crop)


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
    marks: Marks | None = None,
    fitted: Fitted = NOTHING,
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
        marks: of the network, as its file would list them; without, they are not read.
        fitted: what the export would add to the network.

    Raises:
        DatasetError: the data set has a class that the network does not know.
    """
    samples = with_labels(selected.labels, dataset, samples)
    recipe, data = selected.recipe, selected.recipe.data
    network = selected.network().to(device)
    normalise: Callable[[Tensor], Tensor] = Normalise(data.mean, data.std, device)
    features = stage_maps = None
    if cache is None:
        photos: Photos = _photo_files(samples, data.resize, dataset.banner)
    else:
        photos = served_photos(samples, data, dataset.banner, cache, progress=visible)
        step = cached_step(network, recipe)
        if step is not None:
            kept = FeatureCache(network, step, recipe, cache, device, workers, progress=visible)
            features, normalise = kept.prepared(photos, samples), partial(as_floats, device=device)
            stage_maps = StageMaps(network, step, [data.input_size])
    annotated = AnnotatedPhotos(samples, photos, data.resize, features)
    reader = listed = None
    if marks is not None and network.mark_head is not None:
        listed = MarkList.of_manifest(marks, len(selected.labels))
        head = copy.deepcopy(network.mark_head).cpu()  # the graph it is written for has no device
        reader = MarkReader(head, marks, len(selected.labels), fitted.marks)
    predict = torch_predictor(network, normalise, stage_maps, reader, _novelty_score(fitted, device))
    answers = _predict(predict, annotated, workers, visible)
    prediction, annotations, readings = _kept(answers, listed, len(dataset.parts), data.resize.crop)
    return Evaluation(
        tuple(samples),
        prediction,
        annotations,
        data.resize,
        selected.temperature,
        selected.labels,
        dataset.parts,
        with_classes(selected.labels, dataset),
        marks=listed,
        readings=readings,
        novelty=None if fitted.novelty is None else fitted.novelty.facts,
    )


def _novelty_score(fitted: Fitted, device: torch.device) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return what makes scores of novelty of logits and pooled vectors; None where nothing was fitted."""
    if fitted.novelty is None or fitted.embedding is None:
        return None
    score, embedding = NoveltyScore(fitted.novelty).to(device), Embedding(fitted.embedding).to(device)
    return lambda logits, pooled: score(logits, pooled, embedding.outside(pooled))


def evaluate_file(
    path: Path,
    dataset: Dataset,
    samples: Sequence[Sample],
    workers: int,
    visible: bool,
    threads: int = 0,
    *,
    every_layer: bool = False,
) -> Evaluation:
    """Evaluate an exported file through the graph contract, in ONNX Runtime on the CPU.

    Args:
        path: of the file.
        dataset: of the samples.
        samples: to evaluate on.
        workers: processes that decode photos.
        visible: show progress.
        threads: of a run; 0: as many as cores.
        every_layer: explain at every layer of the file; else at the last.

    Raises:
        DatasetError: the data set has a class that the network does not know.
        ManifestError: the file has none.
    """
    predict, manifest = onnx_predictor(path, threads, every_layer=every_layer)
    samples = with_labels(manifest.labels, dataset, samples)
    photos = _photo_files(samples, manifest.resize, dataset.banner)
    annotated = AnnotatedPhotos(samples, photos, manifest.resize)
    batch = BATCH_OF_EVERY_LAYER if every_layer else BATCH
    marks = None
    if manifest.marks is not None and not every_layer:
        marks = MarkList.of_manifest(manifest.marks, manifest.num_classes)
    answers = _predict(predict, annotated, workers, visible, batch)
    prediction, annotations, readings = _kept(answers, marks, len(dataset.parts), manifest.input_size)
    return Evaluation(
        tuple(samples),
        prediction,
        annotations,
        manifest.resize,
        manifest.temperature,
        manifest.labels,
        dataset.parts,
        with_classes(manifest.labels, dataset),
        {layer.name: layer.centres for layer in manifest.layers if layer.centres is not None},
        manifest.placed_by_centres,
        marks,
        readings,
        manifest.sets,
        manifest.novelty,
    )


def _photo_files(samples: Sequence[Sample], resize: Resize, banner: int) -> PhotoFiles:
    return PhotoFiles([sample.path for sample in samples], as_served(resize, banner))


class AnnotatedPhotos(TorchDataset[tuple[Tensor, Annotation]]):
    """Photos as the service prepares them (or their cached features), each with what is known of it.

    Args:
        samples: of the photos.
        photos: prepared.
        resize: the geometry.
        features: to return instead of pixels.
    """

    def __init__(
        self, samples: Sequence[Sample], photos: Photos, resize: Resize, features: Items | None = None
    ) -> None:
        self._samples, self._resize = samples, resize
        self._photos, self._features = photos, features

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Annotation]:
        pixels, size = self._photos[index]
        annotation = annotation_of(self._samples[index], size, self._resize)
        if self._features is not None:
            return self._features[index][0], annotation
        return torch.from_numpy(np.array(pixels)).permute(2, 0, 1), annotation


def _predict(
    predict: Predict, photos: AnnotatedPhotos, workers: int, visible: bool, batch: int = BATCH
) -> Iterator[tuple[Prediction, list[Annotation]]]:
    """Yield the answers for the photos, a batch at a time, with what is known of them."""
    batches = loader(photos, workers=workers, batch_size=batch, collate_fn=_batch)
    bar = tqdm(batches, desc="evaluating", unit="batch", disable=None if visible else True, leave=False)
    for images, known in bar:
        yield predict(images), known


def _kept(
    answers: Iterable[tuple[Prediction, list[Annotation]]], marks: MarkList | None, parts: int, size: int
) -> tuple[Prediction, tuple[Annotation, ...], Readings | None]:
    """Return the answers for all photos, what is known of them, and what is kept of their marks."""
    predictions, annotations, readings = [], [], []
    for prediction, known in answers:
        if marks is not None and prediction.marks is not None:
            readings.append(read(prediction.marks, prediction.logits, marks, known, parts, size))
        predictions.append(replace(prediction, marks=None))
        annotations += known
    return joined(predictions), tuple(annotations), joined_readings(readings) if readings else None


def _batch(items: Sequence[tuple[Tensor, Annotation]]) -> tuple[Tensor, list[Annotation]]:
    images, annotations = zip(*items, strict=True)
    return torch.stack(images), list(annotations)


def with_labels(labels: Sequence[str], dataset: Dataset, samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples with the class numbers of a network, which may know more classes than the data set has.

    Raises:
        DatasetError: the data set has a class that the network does not know.
    """
    numbers = _numbers(labels, dataset)
    return [replace(sample, label=numbers[sample.label]) for sample in samples]


def _numbers(labels: Sequence[str], dataset: Dataset) -> list[int]:
    """Return the network's number of each class of the data set."""
    index = {label: number for number, label in enumerate(labels)}
    # Labels of older networks lack every number in front of a name.
    names = {label: label if label in index else re.sub(r"^\d+[. ]", "", label) for label in dataset.labels}
    if unknown := [label for label in dataset.labels if names[label] not in index]:
        different = [f"{a!r} / {b!r}" for a, b in zip(labels, dataset.labels, strict=False) if a != b][:3]
        raise DatasetError(
            f"the network has {len(labels)} classes, {dataset.name} has {dataset.num_classes}, "
            f"{len(unknown)} of them unknown to it ({', '.join(different or map(repr, unknown[:3]))})"
        )
    return [index[names[label]] for label in dataset.labels]


def with_classes(labels: Sequence[str], dataset: Dataset) -> Attributes | None:
    """Return the data set's attributes by the network's class numbers; rows of classes it has not are NaN."""
    if dataset.attributes is None:
        return None
    table = np.full((len(labels), len(dataset.attributes.names)), np.nan)
    for row, number in zip(dataset.attributes.table, _numbers(labels, dataset), strict=True):
        table[number] = row
    return replace(dataset.attributes, table=table)
