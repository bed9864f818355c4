"""A report to look at: figures, a reliability diagram, the classes that are confused, and photos with their maps.

One HTML file without scripts or links to elsewhere; the pictures are inside it.
"""

import base64
import html
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from model.contract.graph import softmax
from model.files import write_whole
from training.data.store import as_served
from training.evaluation.evaluate import Judged
from training.evaluation.scores import BINS, Floats

SHOWN = 24
THUMBNAIL = 224

STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #2e7d32; --bad: #c1440e; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .8rem; margin: 1.2rem 0; }
.figure { border: 1px solid var(--line); border-radius: .6rem; padding: .6rem .9rem; }
.figure b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.photos { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1.2rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: .6rem; overflow: hidden; }
figure .row { display: flex; } figure img { width: 33.34%; aspect-ratio: 1; }
figcaption { padding: .5rem .8rem; } .right { color: var(--good); } .wrong { color: var(--bad); }
.bar { height: .35rem; border-radius: .2rem; background: currentColor; }
table { border-collapse: collapse; } td, th { padding: .2rem .9rem .2rem 0; text-align: left; }
small { opacity: .75; } code { font-size: .9em; }
"""


def write_report(judged: Judged, figures: Mapping[str, float], title: str, path: Path, banner: int = 0) -> None:
    """Write the report.

    Args:
        judged: what a network answered.
        figures: by name, as in JSON.
        title: of the network.
        path: of the HTML file.
        banner: rows cropped off the bottom of every photo, pixels.
    """
    probabilities = softmax(judged.logits, judged.temperature)
    wrong, right = choose(probabilities, judged.labels)
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p><small>{len(judged.labels)} photos, {len(judged.names)} classes, {judged.resize.crop} px, one view each. "
        "Each photo is shown as the network sees it: photo with the annotated box, attention, Grad-CAM of the "
        "predicted class.</small></p>",
        _figures(figures),
        "<h2>Confidence and truth</h2>",
        reliability_diagram(probabilities, judged.labels),
        "<h2>Most often confused</h2>",
        _confused(probabilities, judged),
        "<h2>Sure, and wrong</h2>",
        _photos(judged, probabilities, wrong, banner),
        "<h2>Right, from the surest to the least sure</h2>",
        _photos(judged, probabilities, right, banner),
    ]
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
    write_whole(path, f"{page}<style>{STYLE}</style><body>{''.join(parts)}</body></html>")


def choose(probabilities: Floats, labels: npt.NDArray[np.integer]) -> tuple[list[int], list[int]]:
    """Return the surest wrong answers, and right ones spread evenly from the surest to the least sure."""
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    order = np.argsort(-confidence, kind="stable")
    wrong = [int(index) for index in order if predicted[index] != labels[index]][:SHOWN]
    right = [int(index) for index in order if predicted[index] == labels[index]]
    step = max(1, len(right) // SHOWN)
    return wrong, right[::step][:SHOWN]


def overlay(image: Image.Image, values: Floats, fixed: tuple[float, float] | None = None) -> Image.Image:
    """Return an image with a map over it in turbo's colours.

    Args:
        image: RGB, square.
        values: map, (h, w).
        fixed: values shown as the lowest and highest colour; by default the map's own.
    """
    from matplotlib import colormaps

    low, high = fixed or (float(values.min()), float(values.max()))
    scaled = np.clip((values - low) / max(high - low, 1e-7), 0, 1).astype(np.float32)
    enlarged = np.asarray(Image.fromarray(scaled).resize(image.size, Image.Resampling.BILINEAR))
    colours = Image.fromarray((colormaps["turbo"](enlarged)[..., :3] * 255).astype(np.uint8))
    return Image.blend(image, colours, 0.5)


def reliability_diagram(probabilities: Floats, labels: npt.NDArray[np.integer]) -> str:
    """Return an SVG: how often answers of each confidence are right; on the diagonal a network knows itself."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bars = []
    for index in np.unique(bins):
        chosen = bins == index
        height, x = 200 * correct[chosen].mean(), 200 * index / BINS
        bars.append(
            f'<rect x="{x + 1:.1f}" y="{200 - height:.1f}" width="{200 / BINS - 2:.1f}" height="{height:.1f}" '
            f'fill="#3f7cac"><title>{chosen.sum()} photos, right {correct[chosen].mean():.0%}</title></rect>'
        )
    return (
        '<svg viewBox="-30 -6 240 232" width="300" role="img" aria-label="reliability diagram">'
        f'{"".join(bars)}<path d="M0 200 200 0" stroke="currentColor" stroke-dasharray="4"/>'
        '<path d="M0 0V200H200" fill="none" stroke="currentColor"/>'
        '<g fill="currentColor" font-size="11"><text x="70" y="218">confidence</text>'
        '<text transform="translate(-10 130) rotate(-90)">share right</text></g></svg>'
    )


def _figures(figures: Mapping[str, float]) -> str:
    percents = ("top1", "top5", "mean_per_class", "pointing_game", "pointing_game_attention", "centred_gaussian")
    cells = [
        f'<div class="figure"><small>{name.replace("_", " ")}</small><b>'
        f"{f'{100 * value:.1f}%' if name in percents else f'{value:.4g}'}</b></div>"
        for name, value in figures.items()
    ]
    return f'<div class="figures">{"".join(cells)}</div>'


def _confused(probabilities: Floats, judged: Judged) -> str:
    predicted = probabilities.argmax(axis=1)
    pairs = Counter((int(t), int(p)) for t, p in zip(judged.labels, predicted, strict=True) if t != p)
    rows = [
        f"<tr><td>{html.escape(judged.names[true])}</td><td>{html.escape(judged.names[seen])}</td><td>{count}</td></tr>"
        for (true, seen), count in pairs.most_common(12)
    ]
    return f"<table><tr><th>is</th><th>taken for</th><th>photos</th></tr>{''.join(rows)}</table>"


def _photos(judged: Judged, probabilities: Floats, indices: list[int], banner: int) -> str:
    if not indices:
        return "<p>None.</p>"
    return f'<div class="photos">{"".join(_photo(judged, probabilities, index, banner) for index in indices)}</div>'


def _photo(judged: Judged, probabilities: Floats, index: int, banner: int) -> str:
    sample, predicted = judged.samples[index], int(probabilities[index].argmax())
    image = Image.fromarray(as_served(judged.resize, banner).load(sample.path)[0])
    gradcam = overlay(image, judged.gradcam[index])
    views = [("photo", _boxed(image, judged.boxes[index])), ("Grad-CAM", gradcam)]
    if judged.attention is not None:
        views.insert(1, ("attention", overlay(image, judged.attention[index])))
    pictures = "".join(f'<img alt="{name}" title="{name}" src="{_data_url(view)}">' for name, view in views)
    known = "right" if predicted == sample.label else "wrong"
    truth = "" if known == "right" else f"<br><small>is {html.escape(judged.names[sample.label])}</small>"
    share = probabilities[index, predicted]
    return (
        f'<figure><div class="row">{pictures}</div><figcaption><span class="{known}">'
        f'{html.escape(judged.names[predicted])} {share:.0%}<div class="bar" style="width:{100 * share:.0f}%"></div>'
        f"</span>{truth}<br><small><code>{html.escape(sample.path.name)}</code></small></figcaption></figure>"
    )


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
