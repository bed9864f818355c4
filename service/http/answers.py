"""Predictions and models → the members of answers; no HTTP in here."""

from typing import Any

from service.http.api.schemas import ClassifyOptions
from service.inference.models import ServedModel
from service.inference.predictor import Prediction

Answer = dict[str, Any]
_DIGITS = 6
"""Decimals of probabilities; float32 holds no more."""


def top_classes(probabilities: list[float], k: int) -> list[int]:
    """Return the indices of the k likeliest classes, the likeliest first; among equals the lower index.

    In plain Python: numpy would release the interpreter lock for so little, and wait for it under load.
    """
    if k == 1:
        return [max(range(len(probabilities)), key=probabilities.__getitem__)]
    return sorted(range(len(probabilities)), key=probabilities.__getitem__, reverse=True)[:k]


def first_class(prediction: Prediction) -> tuple[str, float]:
    """Return the label and the probability of the likeliest class."""
    probabilities = prediction.probabilities.tolist()
    (index,) = top_classes(probabilities, 1)
    return prediction.served.manifest.labels[index], probabilities[index]


def score(prediction: Prediction, index: int) -> Answer:
    """Return a class and its probability; `schemas.Score`."""
    probability = round(float(prediction.probabilities[index]), _DIGITS)
    return {"label": prediction.served.manifest.labels[index], "index": index, "probability": probability}


def model_id(served: ServedModel) -> Answer:
    """Return what identifies a model; `schemas.ModelId`."""
    return {"name": served.name, "version": served.version, "sha256": served.sha256}


def classification(
    prediction: Prediction, options: ClassifyOptions, *, filename: str | None, request_id: str
) -> Answer:
    """Return the flat answer for one image; `schemas.Classification`."""
    best = top_classes(prediction.probabilities.tolist(), options.top_k)
    scores = [score(prediction, index) for index in best]
    answer: Answer = {"predictions": scores}
    if options.threshold is not None:
        answer["accepted"] = scores[0]["probability"] >= options.threshold
    answer["model"] = model_id(prediction.served)
    answer["filename"] = filename
    answer["width"] = prediction.width
    answer["height"] = prediction.height
    answer["request_id"] = request_id
    return answer


def model_info(served: ServedModel) -> Answer:
    """Return the description of a model; `schemas.ModelInfo`."""
    manifest = served.manifest
    layers = [
        {"index": index, "name": layer.name, "shape": list(layer.grid)} for index, layer in enumerate(manifest.layers)
    ]
    return {
        **model_id(served),
        "labels": list(manifest.labels),
        "input_size": manifest.input_size,
        "layers": layers,
        "attention": manifest.attention,
        "has_attention": manifest.has_attention,
        "precision": manifest.precision,
        "provider": served.engine.provider,
        "metrics": manifest.metrics,
        "dataset": manifest.provenance.dataset,
        "licence": manifest.provenance.licence,
        "loaded_at": served.loaded_at.isoformat(timespec="seconds"),
    }
