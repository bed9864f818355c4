"""Predictions and models → the members of answers; no HTTP in here."""

from typing import Any

from model.contract.graph import MAX_MARKS
from service.decision.beliefs import Belief
from service.decision.individual import together
from service.decision.novelty import QUANTILE_DIGITS, judge
from service.decision.sets import sets_of, taxon_of
from service.http.api.schemas import ClassifyOptions
from service.inference.marks import FoundMark, MarkReader
from service.inference.predictor import Prediction
from service.inference.served import ServedModel
from service.inference.targets import marks_of

Answer = dict[str, Any]
_DIGITS = 6
"""Decimals of probabilities; float32 holds no more."""
_SHARE_DIGITS = 3
"""Decimals of the shares in the table of marks; float16 holds no more."""
RANKS = tuple(range(-1, -MAX_MARKS - 1, -1))
"""Codes of the marks of rank 1 to 8: all of them, since the first ones may not be seen."""


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
    return {
        "name": served.name,
        "version": served.version,
        "sha256": served.sha256,
        "precision": served.manifest.precision,
    }


def classification(
    prediction: Prediction,
    options: ClassifyOptions,
    *,
    filename: str | None,
    request_id: str,
    belief: Belief | None = None,
) -> Answer:
    """Return the flat answer for one image; `schemas.Classification`."""
    answer = decision(prediction, options, belief) | novelty_answer(prediction)
    if options.marks is not None:
        answer |= marks_answer(prediction, options.marks)
    answer["model"] = model_id(prediction.served)
    answer["filename"] = filename
    answer["width"] = prediction.width
    answer["height"] = prediction.height
    answer["request_id"] = request_id
    return answer


def decision(prediction: Prediction, options: ClassifyOptions, belief: Belief | None) -> Answer:
    """Return the classes, and what was said of them before; `schemas.Decision`."""
    probabilities = prediction.probabilities.tolist()
    best = top_classes(probabilities, min(options.top_k, len(probabilities) - prediction.ruled_out))
    scores = [score(prediction, index) for index in best]
    answer: Answer = {"predictions": scores}
    if options.threshold is not None:
        answer["accepted"] = scores[0]["probability"] >= options.threshold
    if options.coverage is not None:
        answer |= set_answer(prediction, options.coverage)
    if belief is not None and belief.prior is not None:
        answer["prior"] = belief.prior
    if belief is not None and belief.among is not None:
        answer["among"] = list(belief.among)
    return answer


def individual_answer(
    photos: list[Prediction], results: list[Answer], options: ClassifyOptions, request_id: str, belief: Belief | None
) -> Answer:
    """Return the answer for all images of one individual; `schemas.Individual`.

    Args:
        photos: predictions of the images that count.
        results: each image's own answer or problem, in their order.
        options: of the request.
        request_id: likewise.
        belief: likewise, of what may be there.
    """
    answer = decision(together(photos, belief), options, belief)
    judged = [result["known"] for result in results if "known" in result]
    if judged:
        answer["known"] = any(judged)
    answer["photos"] = len(photos)
    answer["results"] = results
    answer["model"] = model_id(photos[0].served)
    answer["request_id"] = request_id
    return answer


def novelty_answer(prediction: Prediction) -> Answer:
    """Return whether the photo is like those of any class, and how novel it is; empty where that is unknown."""
    judged = judge(prediction.novelty, prediction.served.manifest.novelty)
    return {} if judged is None else {"known": judged.known, "novelty": round(judged.quantile, QUANTILE_DIGITS)}


def unlike_all(num_classes: int) -> str:
    """Return what is said, for people, of a photo that is not known."""
    return f"like none of the {num_classes} classes"


def set_answer(prediction: Prediction, coverage: float) -> Answer:
    """Return the set of classes, and their lowest common taxon where that is known; `schemas.Decision`.

    Args:
        prediction: of a model with sets.
        coverage: share of images whose set holds the true class.
    """
    manifest = prediction.served.manifest
    probabilities = prediction.probabilities.tolist()
    classes = [
        index
        for index in sets_of(manifest).of(probabilities, coverage)
        if probabilities[index] or not prediction.ruled_out
    ]
    found: Answer = {"set": [manifest.labels[index] for index in classes]}
    if manifest.taxonomy is not None:
        taxon = taxon_of(classes, manifest)
        found["taxon"] = None if taxon is None else taxon._asdict()
    return found


def marks_answer(prediction: Prediction, count: int) -> Answer:
    """Return the marks that are seen, and where the model allows it those that are missing; `schemas.Classification`.

    Args:
        prediction: whose question asked for the marks by rank.
        count: most marks in each list.
    """
    marks = marks_of(prediction.served.manifest)
    reader = MarkReader(prediction, marks)
    contrasted = prediction.versus_class is not None
    found: Answer = {"marks": [mark_members(one, contrasted) for one in reader.seen(count)]}
    if marks.missing:
        found["missing"] = [missing_members(one, contrasted) for one in reader.missing(count)]
    return found


def mark_members(found: FoundMark, contrasted: bool) -> Answer:
    """Return a mark that is seen, with its place where that can be located; `schemas.FieldMark`."""
    members = missing_members(found, contrasted)
    if found.mark.located:
        members["at"] = None if found.at is None else [round(value, 1) for value in found.at]
        members["evidence"] = None if found.evidence is None else round(found.evidence, 2)
    return members


def missing_members(found: FoundMark, contrasted: bool) -> Answer:
    """Return a mark without its place; `schemas.MissingMark`."""
    typical, versus = (
        None if share is None else round(share, _SHARE_DIGITS) for share in (found.typical, found.typical_versus)
    )
    members = {"name": found.mark.name, "part": found.mark.part, "seen": round(found.seen, _DIGITS), "typical": typical}
    return members | ({"typical_versus": versus} if contrasted else {})


def mark_shares(mark: Answer, versus: str) -> str:
    """Return how surely a mark is seen and how typical it is, for people.

    Args:
        mark: its members.
        versus: label of the class that is contrasted with; empty for none.
    """
    typical, against = (
        "?" if share is None else f"{share:.0%}" for share in (mark["typical"], mark.get("typical_versus"))
    )
    shown = f"seen {mark['seen']:.0%}, typical {typical}"
    return f"{shown} ({versus} {against})" if versus else shown


def mark_note(mark: Answer) -> str:
    """Return what keeps the words of a mark honest, for people; empty where they can stand as they are.

    Args:
        mark: the members of one that was looked for in the photo.
    """
    if mark.get("at") is None:
        return "its place is not known"
    if mark["evidence"] is not None and mark["evidence"] < 1:
        return "not where the decision looked"
    return ""


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
        "marks": [
            {"index": index, "name": mark.name, "part": mark.part}
            for index, mark in enumerate(manifest.marks.marks if manifest.marks else ())
        ],
        "priors": list(served.priors),
        "embedding": None if manifest.embedding is None else manifest.embedding.size,
        "novelty": manifest.novelty is not None,
        "sets": manifest.sets is not None,
        "taxonomy": list(manifest.taxonomy.ranks) if manifest.taxonomy else [],
        "provider": served.engine.provider,
        "metrics": manifest.metrics,
        "dataset": manifest.provenance.dataset,
        "licence": manifest.provenance.licence,
        "loaded_at": served.loaded_at.isoformat(timespec="seconds"),
    }
