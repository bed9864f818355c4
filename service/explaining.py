"""Answers of `/explain`: which maps to ask the graph for, and the maps of a prediction → JSON members or a picture."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.contract.manifest import Manifest
from service.answers import Answer, score
from service.errors import InvalidOption
from service.image import DecodedImage
from service.predictor import Prediction
from service.render import render_layer, render_view, scale_map
from service.schemas import ExplainOptions
from service.targets import resolve_layer, resolve_target

Floats = npt.NDArray[np.floating[Any]]
PANEL_SIDE = 768
"""Longer side of a panel's pictures where the request names none, pixels; as in `render_view`."""
_DIGITS = 7
"""Significant digits of raw map values in JSON; float32 holds no more."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the graph: with `versus`, the contrast and its reverse in one run.

    Attributes:
        targets: class codes, T.
        versus: class codes to set against, T, or None.
        layer: index into the manifest's layers.
    """

    targets: tuple[int, ...]
    versus: tuple[int, ...] | None
    layer: int

    @classmethod
    def of(cls, options: ExplainOptions, manifest: Manifest) -> "Question":
        """Resolve the options against a model, before any image is read.

        Raises:
            UnknownClass: no such class.
            InvalidOption: no such layer, no attention to show, or a class set against itself.
        """
        layer = resolve_layer(options.layer, manifest)
        if options.view == "attention" and not manifest.has_attention:
            raise InvalidOption("This model has no attention map; use another `view`.")
        target = resolve_target(options.target, manifest)
        if options.versus is None:
            return cls((target,), None, layer)
        versus = resolve_target(options.versus, manifest)
        if versus == target:
            raise InvalidOption("`target` and `versus` are the same class.")
        return cls((target, versus), (versus, target), layer)

    def check(self, prediction: Prediction) -> None:
        """Refuse a contrast of a class with itself, which only the image can tell where ranks are asked for.

        Raises:
            InvalidOption: target and versus turned out to be the same class.
        """
        if self.versus is not None and prediction.explained[0] == prediction.explained[1]:
            raise InvalidOption("`target` and `versus` are the same class of this image.")


def explanation(head: Answer, prediction: Prediction, options: ExplainOptions) -> Answer:
    """Return the answer for one image, `schemas.Explanation`; renders, so it runs in a worker thread.

    Args:
        head: its members from the classification.
        prediction: with maps.
        options: of the request.
    """
    answer = dict(head)
    answer["target"] = score(prediction, int(prediction.explained[0]))
    if options.versus is not None:
        answer["versus"] = score(prediction, int(prediction.explained[1]))
    answer["layer"] = prediction.served.manifest.layers[prediction.layer].name
    answer["gradcam"] = _map(prediction.gradcam[0], prediction, options)
    if options.versus is not None:
        answer["gradcam_versus"] = _map(prediction.gradcam[1], prediction, options)
    attention = prediction.attention
    answer["attention"] = None if attention is None else _map(attention, prediction, options, may_be_flat=True)
    return answer


def _map(values: Floats, prediction: Prediction, options: ExplainOptions, *, may_be_flat: bool = False) -> Answer:
    """Return the members of one map, `schemas.ClassMap`."""
    resize = prediction.served.manifest.resize
    scaled = scale_map(values, resize.crop)
    found: Answer = {
        "png": render_layer(
            values, resize, prediction.width, prediction.height, colormap=options.colormap, size=options.size
        ),
        "min": _round(scaled.min),
        "max": _round(scaled.max),
        "shape": list(values.shape),
    }
    if scaled.is_zero:
        found["note"] = "no positive evidence"
    elif may_be_flat and scaled.is_flat:
        found["note"] = "flat: every place is attended to alike"
    if options.values:
        found["values"] = [[_round(value) for value in row] for row in values.tolist()]
    return found


def draw(prediction: Prediction, options: ExplainOptions, media_type: str) -> bytes:
    """Return the picture of one image; runs in a worker thread."""
    target = score(prediction, int(prediction.explained[0]))
    question = f"Grad-CAM: {target['label']}"
    if options.versus is not None:
        question += f", not {score(prediction, int(prediction.explained[1]))['label']}"
    return render_view(
        _shown_image(prediction, options),
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


def _shown_image(prediction: Prediction, options: ExplainOptions) -> DecodedImage:
    """Return the image with enough pixels for the picture: decoded in full only where they will be seen."""
    image = prediction.image
    if options.view == "panel":
        needed = options.size or PANEL_SIDE
    elif options.view == "overlay":
        needed = options.size or max(prediction.width, prediction.height)
    else:
        needed = 0
    return image if image is not None and max(image.image.size) >= needed else prediction.full_image()


def _round(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
