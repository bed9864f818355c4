"""The report of an evaluation: figures, a reliability diagram, confused classes, and photos with their maps.

One HTML file without scripts or links to other files; the pictures are inside it.
"""

import base64
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image, ImageDraw

from model.files import write_whole
from training.data.store import as_served
from training.evaluation.evaluate import Evaluation
from training.evaluation.figures import Figure
from training.evaluation.scores import BINS, Floats, Ints, bins_of

SHOWN = 24
"""Photos in each of the two galleries."""
THUMBNAIL = 224
PERCENTS = ("top1", "top5", "mean_per_class", "pointing_game", "pointing_game_attention", "centred_gaussian")
"""Figures that are shown in percent."""
TEMPLATE = Path(__file__).with_name("report.html")


def write_report(
    evaluation: Evaluation, figures: Mapping[str, Figure | float], title: str, path: Path, banner: int = 0
) -> None:
    """Write the report.

    Args:
        evaluation: to show.
        figures: by name, as in JSON.
        title: of the network.
        path: of the HTML file.
        banner: rows cropped off the bottom of every photo, pixels.
    """
    probabilities, names = evaluation.probabilities, evaluation.names
    predicted = probabilities.argmax(axis=1)
    pairs = Counter(zip(evaluation.labels.tolist(), predicted.tolist(), strict=True))
    confused = [(names[true], names[seen], count) for (true, seen), count in pairs.most_common() if true != seen]
    wrong, right = choose(probabilities, evaluation.labels)
    template = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(
        title=title,
        count=len(predicted),
        num_classes=len(names),
        size=evaluation.resize.crop,
        figures={name: value if isinstance(value, float) else value.value for name, value in figures.items()},
        percents=PERCENTS,
        bars=reliability_bars(probabilities, evaluation.labels),
        confused=confused[:12],
        wrong=[_photo(evaluation, probabilities[index], index, banner) for index in wrong],
        right=[_photo(evaluation, probabilities[index], index, banner) for index in right],
    )
    write_whole(path, page)


def choose(probabilities: Floats, labels: Ints) -> tuple[list[int], list[int]]:
    """Return the most confident wrong predictions, and right ones spread evenly over the range of confidence."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    order = np.argsort(-confidence, kind="stable")
    wrong, right = order[~correct[order]], order[correct[order]]
    return wrong[:SHOWN].tolist(), right[:: max(1, len(right) // SHOWN)][:SHOWN].tolist()


def overlay(image: Image.Image, values: Floats) -> Image.Image:
    """Return an RGB image with a map (h, w) over it in turbo's colours, from the map's lowest to its highest value."""
    from matplotlib import colormaps

    scaled = ((values - values.min()) / max(float(np.ptp(values)), 1e-7)).astype(np.float32)
    enlarged = np.asarray(Image.fromarray(scaled).resize(image.size, Image.Resampling.BILINEAR))
    colours = Image.fromarray((colormaps["turbo"](enlarged)[..., :3] * 255).astype(np.uint8))
    return Image.blend(image, colours, 0.5)


def reliability_bars(probabilities: Floats, labels: Ints) -> list[dict[str, float]]:
    """Return for each bin of confidence its lower end and width, its number of photos, and their accuracy."""
    bins = bins_of(probabilities.max(axis=1))
    correct = probabilities.argmax(axis=1) == labels
    return [
        {
            "low": index / BINS,
            "width": 1 / BINS,
            "count": int((bins == index).sum()),
            "accuracy": float(correct[bins == index].mean()),
        }
        for index in np.unique(bins)
    ]


def _photo(evaluation: Evaluation, probabilities: Floats, index: int, banner: int) -> dict[str, Any]:
    """Return what the template shows of one photo."""
    sample, best = evaluation.samples[index], int(probabilities.argmax())
    image = Image.fromarray(as_served(evaluation.resize, banner).load(sample.path)[0])
    views = {"photo": _boxed(image, evaluation.annotations[index].box)}
    prediction = evaluation.prediction
    if prediction.attention is not None:
        views["attention"] = overlay(image, prediction.attention[index])
    views["Grad-CAM"] = overlay(image, next(iter(prediction.gradcam.values()))[index])
    return {
        "views": {name: _data_url(view) for name, view in views.items()},
        "predicted": evaluation.names[best],
        "label": evaluation.names[sample.label],
        "probability": float(probabilities[best]),
        "file": sample.path.name,
    }


def _boxed(image: Image.Image, box: Floats) -> Image.Image:
    if not np.isfinite(box).all():
        return image
    drawn = image.copy()
    ImageDraw.Draw(drawn).rectangle([float(side) for side in box], outline=(255, 214, 10), width=2)
    return drawn


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
