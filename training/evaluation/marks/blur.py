"""Does the network need the place that it names? Blur it, and read what the network says of the photo then.

A disc around the place, of a radius of an eighth of the object's longer side, is blurred by a Gaussian of that sigma:
colour and pattern go, and no black hole is left. What it costs stands beside an equal disc elsewhere on the object.

Source: Fong & Vedaldi 2017, arXiv:1704.03296 (blur as a deletion that keeps to natural images).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from training.evaluation.maps.faithfulness import blurred
from training.evaluation.maps.parts import REACH
from training.evaluation.maps.regions import Booleans, Floats
from training.evaluation.scores import Ints

BATCH = 32

Ask = Callable[[Tensor], tuple[Floats, Floats]]
"""From uint8 images, (n, 3, S, S), to logits, (n, K), and probabilities that marks are seen, (n, A)."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A photo on which places are blurred.

    Attributes:
        index: of the photo among all that are evaluated.
        points: where its parts are, pixels of the input, (P, 2); NaN where one is not visible there.
        radius: of a disc, pixels.
    """

    index: int
    points: Floats
    radius: float

    def apart(self, places: Floats) -> Booleans:
        """Return the visible parts whose discs overlap none of those at some places, (m, 2) → (P,)."""
        distances = np.linalg.norm(self.points[:, None] - places[None], axis=2)
        return np.asarray((distances >= 2 * self.radius).all(axis=1))  # a distance from NaN is not larger


@dataclass(frozen=True, eq=False)
class Trial:
    """A photo with some places blurred.

    Attributes:
        scene: the photo.
        places: pixels of the input, (m, 2).
    """

    scene: Scene
    places: Floats


def scenes_of(chosen: Sequence[int], points: Floats, sides: Floats, size: int) -> list[Scene]:
    """Return the photos, of some, whose box is known and of which a part can be seen.

    Args:
        chosen: indices of photos.
        points: where the parts of all photos are, (n, P, 2); those outside the input do not count here.
        sides: of the objects' boxes, (n, 2).
        size: side of the input, pixels.
    """
    with np.errstate(invalid="ignore"):
        inside = np.asarray(((points >= 0) & (points <= size)).all(axis=2))
    return [
        Scene(index, np.where(inside[index][:, None], points[index], np.nan), REACH * float(sides[index].max()))
        for index in chosen
        if np.isfinite(sides[index]).all() and inside[index].any()
    ]


def ask_blurred(
    ask: Ask, image_of: Callable[[int], Tensor], trials: Sequence[Trial], visible: bool = False
) -> tuple[Floats, Floats]:
    """Return what the network says of blurred photos: logits, (t, K), and probabilities of the marks, (t, A).

    Args:
        ask: the network.
        image_of: from a photo's index to its pixels as the service prepares them, uint8 (3, S, S).
        trials: t of them; those of one photo stand together.
        visible: show progress.
    """
    images = _blurred_photos(image_of, trials)
    logits, seen = [], []
    starts = range(0, len(trials), BATCH)
    for start in tqdm(starts, desc="blurring", unit="batch", disable=None if visible else True, leave=False):
        count = min(BATCH, len(trials) - start)
        answer = ask(torch.stack([next(images) for _ in range(count)]))
        logits.append(answer[0])
        seen.append(answer[1])
    return np.concatenate(logits), np.concatenate(seen)


def blur_discs(image: Tensor, soft: Tensor, places: Floats, radius: float) -> Tensor:
    """Return an image with discs of it replaced by those of its blurred copy, (3, S, S).

    Args:
        image: uint8, (3, S, S).
        soft: the same, blurred.
        places: centres (x, y), pixels, (m, 2).
        radius: pixels.
    """
    centres = torch.arange(image.shape[-1]) + 0.5
    inside = torch.zeros(image.shape[1:], dtype=torch.bool)
    for x, y in places.tolist():
        inside |= (centres[None] - x) ** 2 + (centres[:, None] - y) ** 2 <= radius**2
    return torch.where(inside, soft, image)


def _blurred_photos(image_of: Callable[[int], Tensor], trials: Sequence[Trial]) -> Iterator[Tensor]:
    """Yield the photo of each trial; a photo is read, and blurred as a whole, once."""
    shown: Scene | None = None
    for trial in trials:
        if trial.scene is not shown:
            shown = trial.scene
            image = image_of(shown.index)
            soft = blurred(image[None].float(), shown.radius)[0].round().clamp(0, 255).to(torch.uint8)
        yield blur_discs(image, soft, trial.places, trial.scene.radius)


def margins(logits: Floats, first: Ints, second: Ints) -> Floats:
    """Return how far the logit of one class is above that of another, (n,)."""
    rows = np.arange(len(logits))
    return np.asarray(logits[rows, first] - logits[rows, second], dtype=np.float64)
