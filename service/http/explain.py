"""Answers of `/explain`: options → the question to the graph, and a prediction's maps → JSON members or a picture."""

from model.contract.manifest import Manifest
from service.drawing.views import MapLayer, draw_layers, render_view
from service.errors import InvalidOption
from service.http.answers import Answer, score
from service.http.api.schemas import ExplainOptions
from service.inference.engine import Question
from service.inference.predictor import Prediction, Predictor
from service.inference.targets import resolve_layer, resolve_target

PANEL_SIDE = 768
"""Longer side of a panel's pictures where the request names none, pixels; as in `render_view`."""
_DIGITS = 7
"""Significant digits of raw map values in JSON; float32 holds no more."""


def question_of(options: ExplainOptions, manifest: Manifest) -> Question:
    """Resolve the options against a model, before any image is read: with `versus`, the contrast and its reverse.

    Raises:
        UnknownClass: no such class.
        InvalidOption: no such layer, no attention to show, or a class contrasted with itself.
    """
    layer = resolve_layer(options.layer, manifest)
    if options.view == "attention" and not manifest.has_attention:
        raise InvalidOption("This model has no attention map; use another `view`.")
    target = resolve_target(options.target, manifest)
    if options.versus is None:
        return Question.about(manifest, (target,), layer=layer)
    versus = resolve_target(options.versus, manifest)
    if versus == target:
        raise InvalidOption("`target` and `versus` are the same class.")
    return Question.about(manifest, (target, versus), (versus, target), layer)


async def explanation(head: Answer, prediction: Prediction, options: ExplainOptions, predictor: Predictor) -> Answer:
    """Return the answer for one image, `schemas.Explanation`.

    Args:
        head: its members from the classification.
        prediction: with maps.
        options: of the request.
        predictor: draws in its pool.
    """
    manifest = prediction.served.manifest
    attention = [] if prediction.attention is None else [prediction.attention]
    maps = [*prediction.gradcam, *attention]
    layers = await predictor.render(
        prediction, draw_layers, maps, manifest.resize, prediction.width, prediction.height,
        colormap=options.colormap, size=options.size,
    )  # fmt: skip
    names = ["gradcam"] if options.versus is None else ["gradcam", "gradcam_versus"]
    answer = dict(head)
    for name, explained in zip(("target", "versus"), prediction.explained[: len(names)], strict=False):
        answer[name] = score(prediction, int(explained))
    answer["layer"] = manifest.layers[prediction.question.layer].name
    for name, layer in zip(names, layers, strict=False):
        answer[name] = _map(layer, options)
    answer["attention"] = _map(layers[-1], options, may_be_flat=True) if attention else None
    return answer


def _map(layer: MapLayer, options: ExplainOptions, *, may_be_flat: bool = False) -> Answer:
    """Return the members of one map, `schemas.ClassMap`."""
    scaled = layer.scaled
    found: Answer = {
        "png": layer.png,
        "min": _round(scaled.min),
        "max": _round(scaled.max),
        "shape": list(layer.values.shape),
    }
    if scaled.is_zero:
        found["note"] = "no positive evidence"
    elif may_be_flat and scaled.is_flat:
        found["note"] = "flat: every place gets the same attention"
    if options.values:
        found["values"] = [[_round(value) for value in row] for row in layer.values.tolist()]
    return found


async def draw(prediction: Prediction, options: ExplainOptions, media_type: str, predictor: Predictor) -> bytes:
    """Return the picture of one image, drawn in the predictor's pool."""
    target = score(prediction, prediction.explained_class)
    question = f"Grad-CAM: {target['label']}"
    if options.versus is not None:
        question += f", not {score(prediction, int(prediction.explained[1]))['label']}"
    return await predictor.draw(
        prediction,
        _shown_side(prediction, options),
        render_view,
        prediction.served.manifest.resize,
        view=options.view,
        gradcam=prediction.gradcam[0],
        attention=prediction.attention,
        caption=target["label"],
        question=question,
        probability=target["probability"],
        colormap=options.colormap,
        opacity=options.opacity,
        size=options.size,
        media_type=media_type,
    )


def _shown_side(prediction: Prediction, options: ExplainOptions) -> int:
    """Return how many pixels of the image's longer side the picture shows; 0 where it shows none of them."""
    if options.view == "panel":
        return options.size or PANEL_SIDE
    if options.view == "overlay":
        return options.size or max(prediction.width, prediction.height)
    return 0


def _round(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
