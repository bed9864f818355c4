"""Answers of `/explain`: options → the question to the graph, and a prediction's maps → JSON members or a picture."""

from model.contract.graph import LAST_LAYER, MAX_MARKS, no_mark
from model.contract.manifest import Manifest
from service.drawing.marks import NumberedMark, render_marks
from service.drawing.views import MapLayer, draw_layers, render_view
from service.errors import InvalidOption
from service.http.answers import RANKS, Answer, mark_members, mark_note, mark_shares, score
from service.http.api.schemas import ExplainOptions
from service.inference.engine import Question
from service.inference.marks import FoundMark, MarkReader
from service.inference.predictor import Prediction, Predictor
from service.inference.targets import marks_of, resolve_layer, resolve_mark, resolve_target

PANEL_SIDE = 768
"""Longer side of a panel's pictures where the request names none, pixels; as in `render_view`."""
DRAWN_MARKS = 3
"""Most marks in a picture."""
MARK_MAP_SIDE = 448
"""Longest side of the layers of `mark_maps`, pixels: at 896 they took 45 ms and 350 kB each."""
_NAMED = MAX_MARKS - 1
"""Slot of the mark that a request names, behind the ranks."""
_DIGITS = 7
"""Significant digits of raw map values in JSON; float32 holds no more."""


def question_of(options: ExplainOptions, manifest: Manifest) -> Question:
    """Resolve the options against a model, before any image is read: with `versus`, the contrast and its reverse.

    Raises:
        UnknownClass: no such class.
        UnknownMark: no such mark.
        NoMarks: marks of a model that has none.
        InvalidOption: no such layer, no attention to show, a class contrasted with itself, or a mark in a view that
            does not show its map.
    """
    layer = resolve_layer(options.layer, manifest)
    if options.view == "attention" and not manifest.has_attention:
        raise InvalidOption("This model has no attention map; use another `view`.")
    marks = _mark_codes(options, manifest)
    target = resolve_target(options.target, manifest)
    if options.versus is None:
        return Question.about(manifest, (target,), layer=layer, marks=marks)
    versus = resolve_target(options.versus, manifest)
    if versus == target:
        raise InvalidOption("`target` and `versus` are the same class.")
    return Question.about(manifest, (target, versus), (versus, target), layer, marks)


def _mark_codes(options: ExplainOptions, manifest: Manifest) -> tuple[int, ...]:
    """Return the codes of the marks whose maps are needed: the ranks, and in the last slot the mark that is named."""
    by_rank = options.marks is not None or options.view == "marks"
    if options.mark is None and not by_rank and not options.mark_maps:
        return ()
    marks = marks_of(manifest)
    if options.mark is None:
        return RANKS
    if options.view in ("attention", "marks"):
        raise InvalidOption(f"`view={options.view}` does not show the map of one `mark`.")
    if options.marks == MAX_MARKS:
        raise InvalidOption(f"With `mark`, `marks` is at most {MAX_MARKS - 1}.")
    named = resolve_mark(options.mark, manifest)
    return (*(RANKS[:_NAMED] if by_rank else (no_mark(marks.num_marks),) * _NAMED), named)


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
    named, listed = _marks(prediction, options)
    maps = [
        *((values, prediction.centres(prediction.question.layer)) for values in prediction.gradcam),
        *((values, prediction.centres(LAST_LAYER)) for values in attention),
        *([(named.map, None)] if named and named.map is not None else []),
    ]
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
    layers = layers[len(prediction.gradcam) :]
    answer["attention"] = _map(layers.pop(0), options, may_be_flat=True) if attention else None
    if named:
        members = mark_members(named, options.versus is not None)
        note = mark_note(members)
        answer["mark"] = members | _map(layers.pop(0), options) | ({"note": note} if note else {})
    if options.mark_maps:
        maps = [(one.map, None) for one in listed[: options.marks or 0] if one.map is not None]
        side = min(options.size or max(prediction.width, prediction.height), MARK_MAP_SIDE)
        layers = await predictor.render(
            prediction, draw_layers, maps, manifest.resize, prediction.width, prediction.height,
            colormap=options.colormap, size=side,
        )  # fmt: skip
        answer["mark_maps"] = [_map(layer, options) for layer in layers]
    return answer


def _marks(prediction: Prediction, options: ExplainOptions) -> tuple[FoundMark | None, list[FoundMark]]:
    """Return the mark that the request names, and those of the class that are seen."""
    count = options.marks or (DRAWN_MARKS if options.view == "marks" else 0)
    if options.mark is None and not count:
        return None, []
    reader = MarkReader(prediction, marks_of(prediction.served.manifest))
    return None if options.mark is None else reader.at_slot(_NAMED), reader.seen(count)


def named_mark(prediction: Prediction) -> str:
    """Return the name of the mark that the request named."""
    return MarkReader(prediction, marks_of(prediction.served.manifest)).at_slot(_NAMED).mark.name


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
    versus = prediction.served.manifest.labels[prediction.versus_class] if prediction.versus_class is not None else ""
    named, listed = _marks(prediction, options)
    side, resize = _shown_side(prediction, options), prediction.served.manifest.resize
    if options.view == "marks":
        return await predictor.draw(
            prediction,
            side,
            render_marks,
            resize,
            [_numbered(one, versus) for one in listed[:DRAWN_MARKS]],
            caption=f"{target['label']} rather than {versus}" if versus else target["label"],
            probability=target["probability"],
            size=options.size,
            media_type=media_type,
        )
    question = f"Grad-CAM: {target['label']}"
    return await predictor.draw(
        prediction,
        side,
        render_view,
        resize,
        view=options.view,
        gradcam=prediction.gradcam[0],
        attention=prediction.attention,
        mark=None if named is None or named.map is None else (named.mark.name, named.map),
        centres=prediction.centres(prediction.question.layer),
        attention_centres=prediction.centres(LAST_LAYER),
        caption=target["label"],
        question=f"{question}, not {versus}" if versus else question,
        probability=target["probability"],
        colormap=options.colormap,
        opacity=options.opacity,
        size=options.size,
        media_type=media_type,
    )


def _numbered(found: FoundMark, versus: str) -> NumberedMark:
    """Return a mark as it is drawn: in words, and in place.

    Args:
        found: in a prediction.
        versus: label of the class contrasted with; empty for none.
    """
    members = mark_members(found, bool(versus))
    details = "; ".join(filter(None, (mark_shares(members, versus), mark_note(members))))
    return NumberedMark(found.mark.name, details, found.at)


def _shown_side(prediction: Prediction, options: ExplainOptions) -> int:
    """Return how many pixels of the image's longer side the picture shows; 0 where it shows none of them."""
    if options.view in ("panel", "marks"):
        return options.size or PANEL_SIDE
    if options.view == "overlay":
        return options.size or max(prediction.width, prediction.height)
    return 0


def _round(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
