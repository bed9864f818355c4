"""Does the exported graph compute what the network computes? Measured on images, against torch in float64."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor

from model.contract.graph import Images, no_class
from model.explain.explainer import Explainer, Passed, activation_maps, gradient_scale
from model.export.mark_parity import MarkRow, ask_marks, compare_embedding, compare_marks, compare_novelty
from model.export.running import (
    Array,
    ParityError,
    Row,
    Runnable,
    largest_difference,
    rows_of,
    run,
    session,
)
from model.network.votes import Votes

TOLERANCE = 1e-4
"""Largest error of an export that is still written; see `ParityReport` for the units."""
BATCHES = (1, 2, 7)
EARLIER_TOLERANCE, KINKS = 1e-3, 2.0
"""Of an earlier layer's map: the error that is never too large, and how many times torch's own float32 error it may
be; see `check_parity`."""

EARLIER_IMAGES = 2
"""Of how many images the earlier layers' maps are compared: in float64 they take seconds each."""


@dataclass(frozen=True)
class ParityReport:
    """The largest errors over the images of a check.

    Attributes:
        images: how many were compared.
        errors: name → error. `logits`: relative to the largest logit or 1; `probabilities` and `attention`:
            absolute; `gradcam.LAYER`: relative to the largest sum of its absolute terms, for the map is a sum
            whose terms cancel; of marks, embedding and novelty as `model.export.mark_parity` says.
        tolerance: that no error exceeds, except where `limits` names another.
        limits: name → the limit of an error that cannot be held to the tolerance in float32; see `check_parity`.
        peers: name of another implementation → largest difference from its maps, both scaled to [0, 1].
    """

    images: int
    errors: dict[str, float] = field(default_factory=dict)
    tolerance: float = TOLERANCE
    peers: dict[str, float] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)

    @property
    def beyond(self) -> list[str]:
        """Names of the errors beyond their limits; NaN is."""
        errors = self.errors.items()
        return [name for name, error in errors if not error <= self.limits.get(name, self.tolerance)]

    @property
    def passed(self) -> bool:
        """Whether every error is within its limit."""
        return not self.beyond

    def to_metrics(self) -> dict[str, float]:
        """Return the figures as the manifest stores them."""
        peers = {f"peer.{name}": error for name, error in self.peers.items()}
        limits = {f"limit.{name}": limit for name, limit in self.limits.items()}
        return {"images": float(self.images), "tolerance": self.tolerance, **self.errors, **limits, **peers}

    def __str__(self) -> str:
        lines = [
            f"{name:<32} {error:.1e}" + (f" (limit {self.limits[name]:.1e})" if name in self.limits else "")
            for name, error in self.errors.items()
        ]
        lines += [f"{name:<32} {error:.1e} (scaled map)" for name, error in self.peers.items()]
        return "\n".join(
            [f"parity with torch (float64) on {self.images} images, tolerance {self.tolerance:.0e}", *lines]
        )


def check_parity(
    model: Runnable, explainer: Explainer, images: npt.NDArray[np.uint8], tolerance: float = TOLERANCE
) -> ParityReport:
    """Compare a graph with the network it was made of.

    The images are sent in batches of 1, 2 and 7 in turn, where there are marks with 1, 3 and 8 of these; of each the
    first two ranks and their contrast are explained, on the last stage, and of the first `EARLIER_IMAGES` the second
    rank and the contrast on every other layer.

    The last stage's maps are held to the tolerance. On the way back to an earlier stage the gradient passes the
    network's ReLUs, and is not continuous there: among millions of units a few lie within rounding of the kink,
    and pass it in one arithmetic and not in the other. How much that moves a map is measured with torch's own
    float32 against float64, and the graph may differ from float64 by `KINKS` times as much. By chance either may be
    hit and the other not: up to `EARLIER_TOLERANCE` is always allowed, without measuring torch.
    Measured on the bundled model: an input moved by 1e-7 of itself moves torch's maps by up to 8e-4, one ReLU's mask
    left out by 0.3 or more.

    Args:
        model: the graph.
        explainer: the network in torch, with the very weights that the file holds.
        images: RGB, uint8, (n, S, S, 3).
        tolerance: as in `ParityReport`.

    Raises:
        ParityError: an error exceeds the tolerance, or an explained class does not have the requested rank.
    """
    runtime = session(model)
    reference = copy.deepcopy(explainer).double().eval()
    rows: list[list[Row]] = [[] for _ in images]
    of_marks: list[list[MarkRow]] = [[] for _ in images]
    for turn, batch in enumerate(_batches(len(images))):
        for index, row in zip(batch, _outputs_of(runtime, images[batch], reference.num_classes, 0), strict=True):
            rows[index].append(row)
        asked = ask_marks(runtime, reference, images[batch], turn)
        for place, found in enumerate(asked):
            of_marks[batch[place // (len(asked) // len(batch))]].append(found)
    few = images[:EARLIER_IMAGES]
    earlier = [
        _outputs_of(runtime, few, reference.num_classes, layer) for layer in range(1, len(reference.classifier.layers))
    ]
    errors: dict[str, float] = {}
    always = max(tolerance, EARLIER_TOLERANCE)
    limits = {_name(reference, layer): always for layer in range(1, len(reference.classifier.layers))}
    # One image at a time: what torch keeps of a pass in float64 may be a gigabyte.
    for index, image in enumerate(images):
        exact = _Answer(reference, image, all_maps=index < EARLIER_IMAGES)
        of_earlier = [answers[index] for answers in earlier if index < EARLIER_IMAGES]
        for layer, row in (*((0, row) for row in rows[index]), *enumerate(of_earlier, 1)):
            _keep_larger(errors, _compare_classes(reference, exact.passed, row))
            _keep_larger(errors, _compare_map(exact, layer, row))
        for answer in of_marks[index]:
            _keep_larger(errors, compare_marks(reference, exact.passed, answer, exact.last_map))
        for name, error in _rounding(explainer, exact, of_earlier, errors, always).items():
            limits[name] = max(limits[name], KINKS * error)
    report = ParityReport(len(images), errors, tolerance, limits=limits)
    if beyond := report.beyond:
        why, where = "", ", ".join(beyond)
        if {*beyond} <= {"embedding", "novelty"}:
            why = " (of a network that has hardly learnt, both may be too near to nothing for float32)"
        raise ParityError(f"the graph disagrees with the network in {where}{why}; nothing was written\n{report}")
    return report


def _absolute(votes: Votes | None) -> Votes | None:
    """Return votes whose maps are the sums of absolute terms: what is read is not negative."""
    return None if votes is None else votes._replace(weight=votes.weight.abs())


def _outputs_of(runtime: onnxruntime.InferenceSession, images: Images, num_classes: int, layer: int) -> list[Row]:
    """Return a graph's outputs for each image, with the maps of ranks 1, 2, and 1 against 2.

    For an earlier layer those of 2, and 1 against 2: its gradient takes long, and they test the same.
    """
    start = 1 if layer else 0
    target = np.tile(np.array([-1, -2, -1][start:], dtype=np.int64), (len(images), 1))
    none = no_class(num_classes)
    versus = np.tile(np.array([none, none, -2][start:], dtype=np.int64), (len(images), 1))
    return rows_of(run(runtime, images, target, versus, layer), len(images))


class _Answer:
    """Torch's outputs for one image: one forward pass, and one backward pass for every class that is needed.

    Args:
        explainer: in any float type.
        image: RGB, uint8, (S, S, 3).
        all_maps: explain every layer; else the last stage alone.

    Attributes:
        explainer: as given.
        image: as given.
        passed: of the classifier.
    """

    def __init__(self, explainer: Explainer, image: Array, all_maps: bool = True) -> None:
        self.explainer, self.image = explainer, image
        x = explainer.normalise(torch.from_numpy(image[None])).requires_grad_()
        with torch.enable_grad():
            passed: Passed = explainer.classifier(x)
        self.passed = passed if all_maps else passed._replace(maps=passed.maps[:1])
        self._gradients: dict[int, list[Tensor]] = {}

    def maps(self, layer: int, targets: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Return Grad-CAM of some classes, (1, T, h, w), and the largest sum of its absolute terms, (1, T, 1, 1).

        Args:
            layer: its index.
            targets: class and contrast of each map; K as contrast for none. The gradient of a difference of logits
                is the difference of their gradients.
        """
        gradients = [self._of_class(target)[layer] - self._of_class(versus)[layer] for target, versus in targets]
        weights = torch.stack(gradients, dim=1)
        smallest = torch.finfo(torch.float64).tiny
        if layer == 0:
            signs = self._signs(targets)
            maps = self.explainer.classifier.last_maps(weights, self.passed, signs).detach()
            absolute = self.passed._replace(maps=(self.passed.maps[0].abs(),), votes=_absolute(self.passed.votes))
            terms = self.explainer.classifier.last_maps(weights.abs(), absolute, signs.abs()).detach()
        else:
            feature_map = self.passed.maps[layer].detach()
            maps = activation_maps(weights, feature_map)
            terms = activation_maps(weights.abs(), feature_map.abs())
        return maps, terms.amax((2, 3), keepdim=True).clamp_min(smallest)

    def last_map(self, target: int, versus: int) -> Tensor:
        """Return the last layer's map of a class, contrasted with another or with none, (1, h, w)."""
        return self.maps(0, [(target, versus)])[0][:, 0]

    def _signs(self, targets: Sequence[tuple[int, int]]) -> Tensor:
        """Return the weight of each logit in the explained scores, (1, T, K)."""
        target, versus = torch.tensor(targets).T[:, None]
        return self.explainer.cotangent(target, versus)

    def _of_class(self, index: int) -> list[Tensor]:
        """Return `mean_hw(dy/dA)` of each layer for one class's logit, (1, C) each; zeros for what is no class."""
        maps, logits = self.passed.maps, self.passed.logits
        if not 0 <= index < self.explainer.num_classes:
            return [logits.new_zeros(())] * len(maps)
        if index not in self._gradients:
            scale = gradient_scale(maps[-1].dtype)
            found = torch.autograd.grad(logits[0, index] * scale, maps, retain_graph=True)
            self._gradients[index] = [gradient.to(logits.dtype).mean((2, 3)) / scale for gradient in found]
        return self._gradients[index]


def _batches(count: int) -> list[list[int]]:
    """Return the images' indices in batches of these sizes in turn; few images are repeated until each size occurs."""
    batches: list[list[int]] = []
    start = 0
    while start < count or len(batches) < len(BATCHES):
        stop = start + BATCHES[len(batches) % len(BATCHES)]
        stop = stop if len(batches) < len(BATCHES) else min(stop, count)
        batches.append([index % count for index in range(start, stop)])
        start = stop
    return batches


def _compare_classes(reference: Explainer, passed: Passed, row: Row) -> dict[str, float]:
    """Return the errors of everything but the maps of gradients, of one image."""
    logits = passed.logits.detach()
    largest = float(logits.abs().max().clamp_min(1))
    errors = {
        "logits": largest_difference(row["logits"], logits) / largest,
        # By how much the logits of the explained classes are out of order.
        "ranks": _disorder(logits, torch.from_numpy(row["explained"])) / largest,
        "probabilities": largest_difference(row["probabilities"], torch.softmax(logits / reference.temperature, 1)),
    }
    if passed.attention is not None:
        errors["attention"] = largest_difference(row["attention"], passed.attention.detach())
    return errors | compare_embedding(reference, passed, row) | compare_novelty(reference, passed, row)


def _compare_map(exact: _Answer, layer: int, row: Row) -> dict[str, float]:
    """Return the error of one layer's maps of one image."""
    maps, scale = exact.maps(layer, _targets(exact.explainer, row))
    return {_name(exact.explainer, layer): largest_difference(row["gradcam"] / scale.numpy(), maps / scale)}


def _rounding(
    explainer: Explainer, exact: _Answer, rows: Sequence[Row], errors: dict[str, float], allowed: float
) -> dict[str, float]:
    """Return the errors of torch's own maps in the graph's float type, of those layers whose error is not allowed."""
    inexact = {layer: row for layer, row in enumerate(rows, 1) if not errors[_name(explainer, layer)] <= allowed}
    if not inexact:
        return {}
    own, found = _Answer(explainer, exact.image), {}
    for layer, row in inexact.items():
        targets = _targets(explainer, row)
        maps, scale = exact.maps(layer, targets)
        found[_name(explainer, layer)] = largest_difference((own.maps(layer, targets)[0] / scale).numpy(), maps / scale)
    return found


def _targets(explainer: Explainer, row: Row) -> list[tuple[int, int]]:
    """Return class and contrast of the maps that `_outputs_of` requests."""
    *first, second, again = row["explained"][0].tolist()
    return [*((index, no_class(explainer.num_classes)) for index in (*first, second)), (again, second)]


def _name(explainer: Explainer, layer: int) -> str:
    return f"gradcam.{explainer.classifier.layers[layer]}"


def _keep_larger(largest: dict[str, float], found: dict[str, float]) -> None:
    """Keep the larger figure of each name; NaN is kept."""
    for name, value in found.items():
        largest[name] = float(np.maximum(largest.get(name, 0.0), value))


def _disorder(logits: Tensor, explained: Tensor) -> float:
    """Return how far the explained classes, (N, 3) of ranks 1, 2, 1 or (N, 2) of 2, 1, are from these, in logits."""
    best = logits.topk(2, dim=1).values[:, [0, 1, 0][-explained.shape[1] :]]
    if bool((explained < 0).any()) or bool((explained[:, -3:-2] != explained[:, -1:]).any()):
        return float("nan")
    return float((best - logits.gather(1, explained)).abs().max())
