"""Ask a network, in torch or as the exported file, for the classes of photos and for every map it offers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from model.contract.graph import BEST, LAST_LAYER, Codes, feeds, no_class, no_mark, ranks_of
from model.contract.manifest import MANIFEST_KEY, Manifest, ManifestError
from model.explain.gradcam import class_map
from model.explain.marks import MarkReader
from model.network.marks import MarkReading
from model.network.network import Network
from training.checkpoint import load_selected
from training.data.features import StageMaps
from training.data.transforms import Normalise
from training.evaluation.maps.regions import Floats
from training.evaluation.marks.blur import Ask
from training.evaluation.marks.readings import MarkAnswer
from training.evaluation.scores import Ints

SECOND = BEST - 1
"""The code of the class of rank 2."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network answers for n photos.

    Attributes:
        logits: (n, K).
        gradcam: of the predicted class by layer, last layer first, (n, h, w) each.
        contrast: of the predicted class against the next likely one, likewise.
        attention: (n, h, w), or None where the arm has no map.
        marks: with the maps of all of them, of a few photos at a time; None where the network has none, and in the
            answers for all photos.
        novelty: (n,), or None where the network has none.
    """

    logits: Floats
    gradcam: dict[str, Floats]
    contrast: dict[str, Floats]
    attention: Floats | None
    marks: MarkAnswer | None = None
    novelty: Floats | None = None


Predict = Callable[[Tensor], Prediction]
"""From uint8 images (n, 3, S, S)."""


def joined(parts: list[Prediction]) -> Prediction:
    """Return the answers for all photos, from those for some of them, without marks: their maps would not fit."""
    first = parts[0]
    return Prediction(
        np.concatenate([part.logits for part in parts]),
        {layer: np.concatenate([part.gradcam[layer] for part in parts]) for layer in first.gradcam},
        {layer: np.concatenate([part.contrast[layer] for part in parts]) for layer in first.contrast},
        None
        if first.attention is None
        else np.concatenate([part.attention for part in parts if part.attention is not None]),
        novelty=None
        if first.novelty is None
        else np.concatenate([part.novelty for part in parts if part.novelty is not None]),
    )


def torch_predictor(
    network: Network,
    normalise: Callable[[Tensor], Tensor],
    stage_maps: StageMaps | None = None,
    reader: MarkReader | None = None,
    score: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Predict:
    """Return a function that classifies and explains with a torch network, at its last layer.

    Args:
        network: in evaluation mode.
        normalise: from the images, or the features, to floats.
        stage_maps: makes the maps of the backbone's stages of cached features; None: images are the input.
        reader: of the network's marks; None: they are not read.
        score: of novelty, from logits and pooled vectors; None: it has none.
    """
    layer = network.backbone.stages[-1].name
    maps_of = stage_maps or StageMaps(network)

    def predict(images: Tensor) -> Prediction:
        with torch.no_grad():
            stages = maps_of(network, normalise(images))
            answer = network.answer(stages)
            logits = answer.logits
            novelty = None if score is None else score(logits, answer.pooled).cpu().numpy()
            likeliest = logits.topk(min(2, logits.shape[1]), dim=1).indices
            gradcam = class_map(network, answer, likeliest[:, 0])
            contrast = class_map(network, answer, likeliest[:, 0], likeliest[:, -1])
            attention = network.attention_map(answer)
            marks = None
            if reader is not None:
                one, other = one_hot(likeliest, logits.shape[1]).to(logits).unbind(1)
                on_grid = None if answer.votes is None else contrast.cpu()
                marks = _read(reader, network.reading_of(answer, stages), (one - other).cpu(), on_grid)
        maps = ({layer: gradcam.cpu().numpy()}, {layer: contrast.cpu().numpy()})
        attended = None if attention is None else attention.cpu().numpy()
        return Prediction(logits.cpu().numpy(), *maps, attended, marks, novelty)

    return predict


def _read(reader: MarkReader, reading: MarkReading, difference: Tensor, class_map: Tensor | None) -> MarkAnswer:
    """Return how surely each mark is seen, the maps of all of them, and the first ranks."""
    reading = MarkReading(*(part.cpu() for part in reading))
    codes = torch.cat([torch.arange(reader.num_marks), -1 - torch.arange(ranks_of(reader.num_marks))])
    valid = torch.ones(len(difference), dtype=torch.bool)
    answer = reader(reading, difference, valid, codes.expand(len(difference), -1), class_map)
    return MarkAnswer(
        answer.seen.numpy(), answer.maps[:, : reader.num_marks].numpy(), answer.marked[:, reader.num_marks :].numpy()
    )


def onnx_predictor(path: Path, threads: int = 0, *, every_layer: bool = False) -> tuple[Predict, Manifest]:
    """Return a function that classifies and explains with an exported file, and the file's manifest.

    Args:
        path: of the file.
        threads: of a run; 0: as many as cores.
        every_layer: explain at every layer, and read no marks; else at the last, which costs next to nothing.

    Raises:
        ManifestError: the file has none, or cannot be loaded.
    """
    session, manifest = _session(path, threads)
    count = manifest.marks.num_marks if manifest.marks is not None and not every_layer else 0
    outputs = ["gradcam", "logits", *(["attention"] if manifest.has_attention else [])]
    outputs += ["marks", "mark_maps", "marked"] if count else []
    outputs += ["novelty"] if manifest.novelty else []
    names = [layer.name for layer in manifest.layers[: None if every_layer else 1]]
    # Two maps a photo: of the likeliest class against the next, by which marks are ranked, and of it alone.
    target, versus = [[BEST, BEST]], [[SECOND if manifest.num_classes > 1 else BEST, no_class(manifest.num_classes)]]
    codes = np.concatenate([np.arange(count), -1 - np.arange(ranks_of(count))])

    def predict(images: Tensor) -> Prediction:
        pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
        asked, against = (np.repeat(np.array(code, np.int64), len(pixels), axis=0) for code in (target, versus))
        every = np.tile(codes, (len(pixels), 1)) if count else no_marks(manifest, len(pixels))
        found = dict(zip(outputs, session.run(outputs, feeds(pixels, asked, against, LAST_LAYER, every)), strict=True))
        maps = [found["gradcam"]]
        for layer in range(1, len(names)):
            maps += session.run(["gradcam"], feeds(pixels, asked, against, layer, every))
        contrast = {name: values[:, 0] for name, values in zip(names, maps, strict=True)}
        gradcam = {name: values[:, 1] for name, values in zip(names, maps, strict=True)}
        marks = None
        if count:
            marks = MarkAnswer(found["marks"], found["mark_maps"][:, :count], found["marked"][:, count:])
        return Prediction(found["logits"], gradcam, contrast, found.get("attention"), marks, found.get("novelty"))

    return predict, manifest


def file_asker(path: Path, threads: int = 0) -> Ask:
    """Return a function from uint8 images to logits and marks, of an exported file that has marks."""
    session, manifest = _session(path, threads)

    def ask(images: Tensor) -> tuple[Floats, Floats]:
        pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
        codes = np.full((len(pixels), 1), BEST, np.int64)
        none = np.full_like(codes, no_class(manifest.num_classes))
        fed = feeds(pixels, codes, none, LAST_LAYER, no_marks(manifest, len(pixels)))
        logits, seen = session.run(["logits", "marks"], fed)
        return logits, seen

    return ask


def network_asker(network: Network, normalise: Callable[[Tensor], Tensor], reader: MarkReader) -> Ask:
    """Return the same of a torch network, in evaluation mode, and the reader of its marks."""

    def ask(images: Tensor) -> tuple[Floats, Floats]:
        with torch.no_grad():
            stages = network.backbone.forward_maps(normalise(images))
            answer = network.answer(stages)
            seen = torch.sigmoid(reader.logits(network.reading_of(answer, stages)))
        return answer.logits.cpu().numpy(), seen.cpu().numpy()

    return ask


def no_marks(manifest: Manifest, count: int) -> Codes | None:
    """Return codes that request no mark's map of n photos, (n, 1); None for a model without marks."""
    return None if manifest.marks is None else np.full((count, 1), no_mark(manifest.marks.num_marks), np.int64)


def pair_maps(model: Path, images: Tensor, first: Ints, second: Ints) -> Floats:
    """Return the contrast maps of chosen classes at the last layer, on the CPU: for a few photos.

    Args:
        model: folder of a run, or an exported file.
        images: uint8, (n, 3, S, S).
        first: a class of each photo, (n,).
        second: the class to contrast it with, (n,).

    Returns:
        Maps of "first, not second" and of "second, not first", (n, 2, h, w).
    """
    classes = np.stack([first, second], axis=1).astype(np.int64)
    if model.suffix == ".onnx":
        session, manifest = _session(model)
        pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
        fed = feeds(pixels, classes, classes[:, ::-1].copy(), LAST_LAYER, no_marks(manifest, len(pixels)))
        maps: Floats = session.run(["gradcam"], fed)[0]
        return maps
    selected = load_selected(model)
    network, data = selected.network(), selected.recipe.data
    with torch.no_grad():
        normalised = Normalise(data.mean, data.std, torch.device("cpu"))(images)
        answer = network.answer(network.backbone.forward_maps(normalised))
        one, other = torch.from_numpy(classes.T.copy())
        pairs = [class_map(network, answer, one, other), class_map(network, answer, other, one)]
    return torch.stack(pairs, dim=1).numpy()


def _session(path: Path, threads: int = 0) -> tuple[Any, Manifest]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    data = path.read_bytes()
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the binding has one class for each status code, without a common base
        raise ManifestError(f"{path.name} cannot be loaded: {error}") from error
    keys = session.get_modelmeta().custom_metadata_map
    return session, Manifest.from_metadata({MANIFEST_KEY: keys.get(MANIFEST_KEY)})
