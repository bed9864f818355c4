"""Does the exported graph compute what the network computes? Measured on images, against torch in float64."""

import copy
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor

from model.explain import Explainer, Passed, activation_maps

TOLERANCE = 1e-4
"""Largest error of an export that is still written; see `ParityReport` for the units."""
BATCHES = (1, 2, 7)
EARLIER_TOLERANCE, KINKS = 1e-3, 2.0
"""Of an earlier layer's map: the error that is never too large, and how many times torch's own float32 error it may
be; see `check_parity`."""

EARLIER_IMAGES = 2
"""Of how many images the earlier layers' maps are compared: in float64 they take seconds each."""

Array = npt.NDArray[np.generic]


class ParityError(RuntimeError):
    """The exported graph does not compute what the network computes; nothing was written."""


@dataclass(frozen=True)
class ParityReport:
    """The largest errors over the images of a check.

    Attributes:
        images: how many were compared.
        errors: name → error. `logits`: relative to the largest logit or 1; `probabilities` and `attention`:
            absolute; `gradcam.LAYER`: relative to the largest sum of its absolute terms, for the map is a sum
            whose terms cancel.
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
    def passed(self) -> bool:
        """Whether every error is within its limit; NaN is not."""
        return all(error <= self.limits.get(name, self.tolerance) for name, error in self.errors.items())

    def to_metrics(self) -> dict[str, float]:
        """Return the figures as the manifest stores them."""
        peers = {f"peer.{name}": error for name, error in self.peers.items()}
        limits = {f"limit.{name}": limit for name, limit in self.limits.items()}
        return {"images": float(self.images), "tolerance": self.tolerance, **self.errors, **limits, **peers}

    def with_peers(self, peers: dict[str, float]) -> "ParityReport":
        """Return the report with the comparison with other implementations."""
        return replace(self, peers=peers)

    def __str__(self) -> str:
        lines = [
            f"{name:<32} {error:.1e}" + (f" (limit {self.limits[name]:.1e})" if name in self.limits else "")
            for name, error in self.errors.items()
        ]
        lines += [f"{name:<32} {error:.1e} (scaled map)" for name, error in self.peers.items()]
        return "\n".join(
            [f"parity with torch (float64) on {self.images} images, tolerance {self.tolerance:.0e}", *lines]
        )


def session(model: bytes) -> onnxruntime.InferenceSession:
    """Return a one-thread CPU session, the plainest way to run a graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(
    runtime: onnxruntime.InferenceSession, images: Array, target: Array, versus: Array, layer: int = 0
) -> dict[str, Array]:
    """Ask a graph and return its outputs by name."""
    names = [output.name for output in runtime.get_outputs()]
    inputs = {"image": images, "target": target, "versus": versus, "layer": np.array(layer, dtype=np.int64)}
    return dict(zip(names, runtime.run(names, inputs), strict=True))


def check_parity(
    model: bytes, explainer: Explainer, images: npt.NDArray[np.uint8], tolerance: float = TOLERANCE
) -> ParityReport:
    """Compare a graph with the network it was made of.

    The images are sent in batches of 1, 2 and 7 in turn; of each the first two ranks and their contrast are
    explained, on the last stage, and of the first `EARLIER_IMAGES` on every other layer.

    The last stage's maps are held to the tolerance. On the way back to an earlier stage the gradient passes the
    network's ReLUs, and is not continuous there: among millions of units a few lie within rounding of the kink,
    and pass it in one arithmetic and not in the other. How much that moves a map is measured with torch's own
    float32 against float64, and the graph may differ from float64 by `KINKS` times as much. Torch may be lucky and
    the graph not, or the other way round: up to `EARLIER_TOLERANCE` is always allowed. Measured on the bundled
    model: an input moved by 1e-7 of itself moves torch's maps by up to 8e-4, one ReLU's mask left out by 0.3 or more.

    Args:
        model: serialised ONNX.
        explainer: the network in torch, with the very weights that the file holds.
        images: RGB, uint8, (n, S, S, 3).
        tolerance: as in `ParityReport`.

    Raises:
        ParityError: an error exceeds the tolerance, or a class is explained that has not the asked rank.
    """
    runtime = session(model)
    reference = copy.deepcopy(explainer).double().eval()
    # In float64 a batch would be gigabytes, and the maps of earlier layers are kept for few images alone.
    passed = [_pass(reference, image, all_maps=index < EARLIER_IMAGES) for index, image in enumerate(images)]
    errors: dict[str, float] = {}
    limits: dict[str, float] = {}
    for batch in _batches(len(images)):
        for index, row in zip(batch, _ask(runtime, images[batch], reference.num_classes, 0), strict=True):
            _keep_larger(errors, _compare_classes(reference, passed[index], row))
            _keep_larger(errors, _compare_last(reference, images[index], passed[index], row))
    layers = range(1, len(reference.subject.layers))
    few = images[: EARLIER_IMAGES if layers else 0]
    answers = [_ask(runtime, few, reference.num_classes, layer) for layer in layers]
    for index, rows in enumerate(zip(*answers, strict=True)):
        for row in rows:
            _keep_larger(errors, _compare_classes(reference, passed[index], row))
        found, rounding = _compare_earlier(reference, explainer, few[index], passed[index], rows)
        _keep_larger(errors, found)
        _keep_larger(
            limits, {name: max(tolerance, EARLIER_TOLERANCE, KINKS * error) for name, error in rounding.items()}
        )
    report = ParityReport(len(images), errors, tolerance, limits=limits)
    if not report.passed:
        raise ParityError(f"the graph disagrees with the network; nothing was written\n{report}")
    return report


def _ask(runtime: onnxruntime.InferenceSession, images: Array, num_classes: int, layer: int) -> list[dict[str, Array]]:
    """Return what a graph answers to each image: outputs by name, (1, …), maps of ranks 1, 2, and 1 against 2."""
    target = np.tile(np.array([-1, -2, -1], dtype=np.int64), (len(images), 1))
    versus = np.tile(np.array([num_classes, num_classes, -2], dtype=np.int64), (len(images), 1))
    outputs = run(runtime, images, target, versus, layer)
    for name, value in outputs.items():
        if len(value) != len(images):
            raise ParityError(f"the output {name} has {len(value)} rows for {len(images)} images")
    return [{name: value[[index]] for name, value in outputs.items()} for index in range(len(images))]


def _pass(explainer: Explainer, image: Array, all_maps: bool) -> Passed:
    """Return torch's forward pass of one image, of its maps the last stage's or all."""
    with torch.no_grad():
        passed: Passed = explainer.subject(_normalised(explainer, image))
    return passed if all_maps else passed._replace(maps=passed.maps[:1])


def _normalised(explainer: Explainer, image: Array) -> Tensor:
    return explainer.normalise(torch.from_numpy(image[None]))


def _cotangent(explainer: Explainer, row: dict[str, Array]) -> Tensor:
    """Return what each logit counts in the three maps that `_ask` asked for, (1, 3, K)."""
    explained = torch.from_numpy(row["explained"])
    contrast = torch.full_like(explained, explainer.num_classes)
    contrast[:, 2] = explained[:, 1]
    return explainer.cotangent(explained, contrast)


def _batches(count: int) -> list[list[int]]:
    """Return the images' indices in batches of the sizes in turn; while a size is missing, from the start again."""
    batches: list[list[int]] = []
    start = 0
    while start < count or len(batches) < len(BATCHES):
        stop = start + BATCHES[len(batches) % len(BATCHES)]
        stop = stop if len(batches) < len(BATCHES) else min(stop, count)
        batches.append([index % count for index in range(start, stop)])
        start = stop
    return batches


def _compare_classes(reference: Explainer, passed: Passed, row: dict[str, Array]) -> dict[str, float]:
    """Return the errors of everything but the maps of gradients, of one image."""
    logits = passed.logits
    largest = float(logits.abs().max().clamp_min(1))
    errors = {
        "logits": _largest(row["logits"], logits) / largest,
        # By how much a class that was explained as second is above the first, and so on.
        "ranks": _disorder(logits, torch.from_numpy(row["explained"])) / largest,
        "probabilities": _largest(row["probabilities"], torch.softmax(logits / reference.temperature, 1)),
    }
    if passed.attention is not None:
        errors["attention"] = _largest(row["attention"], passed.attention)
    return errors


def _compare_last(reference: Explainer, image: Array, passed: Passed, row: dict[str, Array]) -> dict[str, float]:
    """Return the error of the last stage's maps of one image."""
    with torch.no_grad():
        weights = reference.subject.last_gradients(_normalised(reference, image), passed, _cotangent(reference, row))
    maps, scale = _maps(weights, passed.maps[0])
    return {_name(reference, 0): _largest(row["gradcam"] / scale.numpy(), maps / scale)}


def _compare_earlier(
    reference: Explainer, explainer: Explainer, image: Array, passed: Passed, rows: tuple[dict[str, Array], ...]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the errors of the other layers' maps of one image, the graph's and those of torch's own float32.

    Both are compared with the same maps in float64, for in float64 the way to the logits and back is slow.

    Args:
        reference: in float64.
        explainer: in the float type of the graph.
        image: RGB, uint8, (S, S, 3).
        passed: of the reference.
        rows: what the graph answers, layer by layer.
    """
    own = _pass(explainer, image, all_maps=True)
    weights = _earlier_weights(reference, image, passed, rows[0])
    own_weights = _earlier_weights(explainer, image, own, rows[0])
    errors, rounding = {}, {}
    for layer, row in enumerate(rows, 1):
        name = _name(reference, layer)
        maps, scale = _maps(weights[layer - 1], passed.maps[layer])
        own_maps = activation_maps(own_weights[layer - 1], own.maps[layer])
        errors[name] = _largest(row["gradcam"] / scale.numpy(), maps / scale)
        rounding[name] = _largest((own_maps / scale).numpy(), maps / scale)
    return errors, rounding


def _earlier_weights(explainer: Explainer, image: Array, passed: Passed, row: dict[str, Array]) -> list[Tensor]:
    """Return `mean_hw(dy/dA)` of each layer but the last stage, (1, 3, C)."""
    x, cotangent = _normalised(explainer, image), _cotangent(explainer, row)
    # One target at a time: the activations of all copies would be gigabytes.
    parts = [explainer.subject.earlier_gradients(x, passed, one).weights for one in torch.split(cotangent, 1, 1)]
    return [torch.cat(of_layer, dim=1) for of_layer in zip(*parts, strict=True)]


def _maps(weights: Tensor, feature_map: Tensor) -> tuple[Tensor, Tensor]:
    """Return Grad-CAM, (1, T, h, w), and the largest sum of its absolute terms, (1, T, 1, 1)."""
    terms = activation_maps(weights.abs(), feature_map.abs())
    smallest = torch.finfo(torch.float64).tiny
    return activation_maps(weights, feature_map), terms.amax((2, 3), keepdim=True).clamp_min(smallest)


def _name(explainer: Explainer, layer: int) -> str:
    return f"gradcam.{explainer.subject.layers[layer]}"


def _keep_larger(largest: dict[str, float], found: dict[str, float]) -> None:
    """Keep the larger figure of each name; NaN is kept."""
    for name, value in found.items():
        largest[name] = float(np.maximum(largest.get(name, 0.0), value))


def _largest(found: Array, expected: Tensor) -> float:
    if found.shape != tuple(expected.shape):
        raise ParityError(f"an output has the shape {found.shape} instead of {tuple(expected.shape)}")
    return float(np.abs(found - expected.numpy()).max())


def _disorder(logits: Tensor, explained: Tensor) -> float:
    """Return how far the explained classes, (N, 3) of ranks 1, 2, 1, are from having those ranks, in logits."""
    best = logits.topk(2, dim=1).values[:, [0, 1, 0]]
    if bool((explained < 0).any()) or bool((explained[:, 0] != explained[:, 2]).any()):
        return float("nan")
    return float((best - logits.gather(1, explained)).abs().max())
