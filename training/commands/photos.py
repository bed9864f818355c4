"""The photos of an evaluation, prepared again for what changes them, or the network."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.commands.question import NormalisedNetwork
from training.data.prepared import prepared_images
from training.data.samples import spread
from training.evaluation.evaluate import Evaluation
from training.evaluation.figures import Figure
from training.evaluation.maps.faithfulness import faithfulness_figures, faithfulness_of
from training.evaluation.maps.looking import look_figures, look_offsets
from training.evaluation.maps.regions import Floats
from training.evaluation.maps.sanity import cascade, cascade_figures, gradcam_of, randomised
from training.evaluation.mark_tables import MarkResult, blur_result
from training.evaluation.marks.blur import Ask

STATISTICS = 32
"""Photos whose statistics the batch norms of a network with random weights take."""


class Photos:
    """The photos of an evaluation, prepared again for what changes them, or the network.

    Args:
        evaluation: the answers.
        banner: rows cropped off the bottom of every photo, pixels.
        visible: show progress.
    """

    def __init__(self, evaluation: Evaluation, banner: int, visible: bool) -> None:
        self._evaluation, self._banner, self._visible = evaluation, banner, visible

    def images(self, chosen: Iterable[int]) -> Tensor:
        """Return photos as the service prepares them, uint8 (n, 3, S, S)."""
        samples = [self._evaluation.samples[index] for index in chosen]
        pixels = prepared_images(samples, self._evaluation.resize, self._banner)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def faithfulness(self, model: Path, count: int) -> dict[str, Figure]:
        """Return how faithful the maps are, on some of the photos."""
        prediction = self._evaluation.prediction
        chosen = spread(range(len(self._evaluation.samples)), count)
        maps = {"gradcam": next(iter(prediction.gradcam.values()))[chosen]}
        if prediction.attention is not None:
            maps["attention"] = prediction.attention[chosen]
        return faithfulness_figures(faithfulness_of(model, self.images(chosen), maps, self._visible))

    def blur(self, ask: Ask, found: MarkResult, count: int) -> MarkResult:
        """Return what was found of the marks with what blurring their places costs, on some of the photos."""
        chosen = spread(range(len(self._evaluation.samples)), count)
        return blur_result(self._evaluation, found, ask, lambda index: self.images([index])[0], chosen, self._visible)

    def looking(self, network: NormalisedNetwork, count: int) -> dict[str, dict[str, Figure]]:
        """Return how far beside its centre each layer's cells look, measured on some of the photos."""
        photos = network.normalise(self.images(spread(range(len(self._evaluation.samples)), count)))
        return look_figures(look_offsets(network.network, photos, self._evaluation.centres))

    def random_weights(self, network: NormalisedNetwork) -> Floats:
        """Return the maps of a network of the same build that has learnt nothing, of every photo."""
        everyone = range(len(self._evaluation.samples))
        statistics = network.normalise(self.images(spread(everyone, STATISTICS)))
        fresh = randomised(network.network, statistics)
        predicted = torch.from_numpy(self._evaluation.prediction.logits.argmax(axis=1))
        parts = (everyone[at : at + STATISTICS] for at in range(0, len(everyone), STATISTICS))
        return np.concatenate(
            [
                gradcam_of(fresh, network.normalise(self.images(part)), predicted[part.start : part.stop])
                for part in parts
            ]
        )

    def sanity(self, network: NormalisedNetwork, count: int) -> dict[str, Figure]:
        """Return how the maps change while layers are set back to random weights, on some of the photos."""
        everyone = range(len(self._evaluation.samples))
        photos, statistics = (network.normalise(self.images(spread(everyone, n))) for n in (count, STATISTICS))
        return cascade_figures(cascade(network.network, photos, statistics))
