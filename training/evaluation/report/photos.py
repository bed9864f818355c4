"""Photos of the report, with their maps over them, as the network sees them; pictures are inside the page."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image, ImageDraw
from torch import Tensor

from training.data.store import as_served
from training.evaluation.classification import Pair, confused_pairs
from training.evaluation.evaluate import Evaluation
from training.evaluation.report.words import certainty
from training.evaluation.scores import Floats, Ints

SHOWN = 8
"""Photos in each gallery."""
PAIRS = 6
"""Pairs of look-alikes that are shown with photos."""
LISTED = 3
"""Marks beside a photo."""
YELLOW = (255, 214, 10)
THUMBNAIL = 208
QUALITY = 78

PairMaps = Callable[[Tensor, Ints, Ints], Floats]
"""From uint8 images (n, 3, S, S) and two classes of each: maps of "first, not second" and the reverse, (n, 2, h, w)."""


@dataclass(frozen=True)
class View:
    """A picture.

    Attributes:
        name: what it shows.
        url: the picture itself, as a data URL.
    """

    name: str
    url: str


@dataclass(frozen=True)
class Shown:
    """A photo with its maps.

    Attributes:
        views: of it.
        predicted: the class named.
        label: the true class.
        probability: of the class named, calibrated.
        certainty: the word for it.
        second: the next likely class.
        second_probability: of that.
        file: name of the photo's file.
    """

    views: Sequence[View]
    predicted: str
    label: str
    probability: float
    certainty: str
    second: str
    second_probability: float
    file: str


@dataclass(frozen=True)
class NumberedMark:
    """A mark beside its photo.

    Attributes:
        number: at its place on the photo, which marks of one part share; 0 where its map points nowhere.
        name: of it.
        seen: probability that it is seen.
        typical: share of observers who see it on the class named; NaN where nobody said.
        typical_versus: on the next likely class, likewise.
    """

    number: int
    name: str
    seen: float
    typical: float
    typical_versus: float


@dataclass(frozen=True)
class Marked:
    """A photo with the marks that speak most for the class named against the next likely one.

    Attributes:
        view: the photo with their numbers at their places.
        marks: the first first.
        predicted: the class named.
        label: the true class.
        second: the next likely class.
    """

    view: View
    marks: Sequence[NumberedMark]
    predicted: str
    label: str
    second: str


@dataclass(frozen=True)
class LookAlikes:
    """A pair of confused classes with photos.

    Attributes:
        pair: the classes.
        views: a photo of the first that is taken for the second, where "second, not first" and the reverse look in it,
            and a photo of the second.
        probability: of the wrong class in the first photo.
        certainty: the word for it.
    """

    pair: Pair
    views: Sequence[View]
    probability: float
    certainty: str


class Album:
    """The photos of an evaluation.

    Args:
        evaluation: of them.
        banner: rows cropped off the bottom of every photo, pixels.
    """

    def __init__(self, evaluation: Evaluation, banner: int = 0) -> None:
        self._evaluation, self._served = evaluation, as_served(evaluation.resize, banner)

    def shown(self, index: int) -> Shown:
        """Return a photo with its maps."""
        evaluation, prediction = self._evaluation, self._evaluation.prediction
        probabilities = evaluation.probabilities[index]
        first, second = _likeliest(probabilities)
        image = self._image(index)
        names = evaluation.names
        views = [View("photo", _data_url(self._boxed(image, index)))]
        views += [
            _mapped(f"Grad-CAM: {names[first]}", image, self._placed(maps[index])) for maps in _last(prediction.gradcam)
        ]
        if second != first:
            title = f"{names[first]}, not {names[second]}"
            views += [_mapped(title, image, self._placed(maps[index])) for maps in _last(prediction.contrast)]
        if prediction.attention is not None:
            views.append(_mapped("attention", image, self._placed(prediction.attention[index])))
        return Shown(
            views,
            names[first],
            names[evaluation.samples[index].label],
            float(probabilities[first]),
            certainty(float(probabilities[first])),
            names[second],
            float(probabilities[second]),
            evaluation.samples[index].path.name,
        )

    def marked(self, index: int) -> Marked:
        """Return a photo with its first marks; none where the network has none."""
        evaluation, names = self._evaluation, self._evaluation.names
        first, second = _likeliest(evaluation.probabilities[index])
        image, listed = self._image(index), []
        if evaluation.marks is not None and evaluation.readings is not None:
            seen, peaks = evaluation.readings.seen[index], evaluation.readings.spots.peaks[index]
            gains, shares = evaluation.marks.difference(first, second), evaluation.marks.table
            order = [mark for mark in evaluation.readings.ranked[index].tolist() if gains[mark] > 0][:LISTED]
            numbers: dict[tuple[float, ...], int] = {}
            for mark in order:
                place = tuple(peaks[mark].tolist())
                placed = bool(np.isfinite(place).all()) and bool(evaluation.marks.located[mark])
                number = numbers.setdefault(place, len(numbers) + 1) if placed else 0
                stated = (float(seen[mark]), float(shares[first, mark]), float(shares[second, mark]))
                listed.append(NumberedMark(number, evaluation.marks.names[mark], *stated))
            for place, number in numbers.items():
                _number(image, number, *place)
        label = names[evaluation.samples[index].label]
        view = View(f"marks of {names[first]}, not {names[second]}", _data_url(image))
        return Marked(view, listed, names[first], label, names[second])

    def look_alikes(self, pair_maps: PairMaps) -> list[LookAlikes]:
        """Return the most confused pairs, the photo of each that is most clearly taken for the other class."""
        evaluation = self._evaluation
        probabilities, labels = evaluation.probabilities, evaluation.labels
        predicted = probabilities.argmax(axis=1)
        pairs = confused_pairs(predicted, labels, evaluation.names)[:PAIRS]
        if not pairs:
            return []
        numbers = {name: number for number, name in enumerate(evaluation.names)}
        true = np.array([numbers[pair.label] for pair in pairs])
        wrong = np.array([numbers[pair.taken_for] for pair in pairs])
        chosen = [
            _most_probable(probabilities[:, b], (labels == a) & (predicted == b))
            for a, b in zip(true, wrong, strict=True)
        ]
        images = [self._image(index) for index in chosen]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
        found = []
        for pair, index, image, maps, b in zip(
            pairs, chosen, images, pair_maps(pixels, wrong, true), wrong, strict=True
        ):
            views = [
                View(f"{pair.label}, taken for {pair.taken_for}", _data_url(self._boxed(image, index))),
                _mapped(f"speaks for {pair.taken_for}, not {pair.label}", image, self._placed(maps[0])),
                _mapped(f"speaks for {pair.label}, not {pair.taken_for}", image, self._placed(maps[1])),
            ]
            if (labels == b).any():
                example = _most_probable(probabilities[:, b], labels == b)
                views.append(View(f"for comparison: {pair.taken_for}", _data_url(self._image(example))))
            probability = float(probabilities[index, b])
            found.append(LookAlikes(pair, views, probability, certainty(probability)))
        return found

    def _placed(self, values: Floats) -> Floats:
        """Return a map of the last layer, (h, w), as the service draws it."""
        return np.asarray(self._evaluation.placed(values[None])[0])

    def _image(self, index: int) -> Image.Image:
        return Image.fromarray(self._served.load(self._evaluation.samples[index].path)[0])

    def _boxed(self, image: Image.Image, index: int) -> Image.Image:
        box = self._evaluation.annotations[index].box
        if not np.isfinite(box).all():
            return image
        drawn = image.copy()
        ImageDraw.Draw(drawn).rectangle([float(side) for side in box], outline=YELLOW, width=2)
        return drawn


def best(probabilities: Floats, labels: Ints) -> list[int]:
    """Return the rightly named photos of the highest probability, at most one a class."""
    predicted = probabilities.argmax(axis=1)
    order = [index for index in _by_confidence(probabilities) if predicted[index] == labels[index]]
    first = dict.fromkeys(int(labels[index]) for index in order)
    return [next(index for index in order if labels[index] == label) for label in first][:SHOWN]


def worst(probabilities: Floats, labels: Ints) -> list[int]:
    """Return the wrongly named photos of the highest probability."""
    predicted = probabilities.argmax(axis=1)
    return [index for index in _by_confidence(probabilities) if predicted[index] != labels[index]][:SHOWN]


def undecided(probabilities: Floats) -> list[int]:
    """Return the photos whose two likeliest classes are nearest to each other."""
    if probabilities.shape[1] < 2:
        return []
    highest = np.sort(probabilities, axis=1)
    order: list[int] = np.argsort(highest[:, -1] - highest[:, -2], kind="stable").tolist()
    return order[:SHOWN]


def overlay(image: Image.Image, values: Floats) -> Image.Image:
    """Return an RGB image with a map (h, w) over it in turbo's colours, from the map's lowest to its highest value."""
    scaled = ((values - values.min()) / max(float(np.ptp(values)), 1e-7)).astype(np.float32)
    enlarged = np.asarray(Image.fromarray(scaled).resize(image.size, Image.Resampling.BILINEAR))
    colours = Image.fromarray((colormaps["turbo"](enlarged)[..., :3] * 255).astype(np.uint8))
    return Image.blend(image, colours, 0.5)


def _number(image: Image.Image, number: int, x: float, y: float) -> None:
    """Draw a number at a place of a photo, in place; one beside the border stays on it."""
    radius = image.width / 20
    x, y = (min(max(value, radius), image.width - radius) for value in (x, y))
    draw = ImageDraw.Draw(image)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=YELLOW, outline=(0, 0, 0), width=2)
    draw.text((x, y), str(number), fill=(0, 0, 0), font_size=1.6 * radius, anchor="mm")


def _mapped(name: str, image: Image.Image, values: Floats) -> View:
    """Return a map over its photo; one of zeros is the photo alone, and says so."""
    if values.max() <= 0:
        return View(f"{name}: nothing speaks for it", _data_url(image))
    return View(name, _data_url(overlay(image, values)))


def _last(maps: dict[str, Floats]) -> list[Floats]:
    """Return the maps of the last layer, which stands first."""
    return list(maps.values())[:1]


def _likeliest(probabilities: Floats) -> tuple[int, int]:
    order = np.argsort(-probabilities, kind="stable")
    return int(order[0]), int(order[min(1, len(order) - 1)])


def _by_confidence(probabilities: Floats) -> list[int]:
    order: list[int] = np.argsort(-probabilities.max(axis=1), kind="stable").tolist()
    return order


def _most_probable(probabilities: Floats, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int:
    return int(np.where(chosen, probabilities, -1).argmax())


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
