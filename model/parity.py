"""Does the exported graph compute what the network computes? Measured on images, against torch in float64."""

import copy
from collections.abc import Callable
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
KINKS = 2.0
"""How much larger than torch's own float32 error the error of an earlier layer's map may be; see `check_parity`."""

Array = npt.NDArray[np.generic]
Ask = Callable[[Array, Array, Array, int], dict[str, Array]]
"""Images, targets, versus, layer → outputs by name, as the graph contract has them."""


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
    explained, on every layer.

    The last stage's maps are held to the tolerance. On the way back to an earlier stage the gradient passes the
    network's ReLUs, and is not continuous there: among millions of units a few lie within rounding of the kink,
    and pass it in one arithmetic and not in the other. How much that moves a map is measured with torch's own
    float32 against float64, and the graph may differ from float64 by `KINKS` times as much.

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
    errors: dict[str, float] = {}

    def ask_graph(images: Array, target: Array, versus: Array, layer: int) -> dict[str, Array]:
        return run(runtime, images, target, versus, layer)

    def ask_torch(images: Array, target: Array, versus: Array, layer: int) -> dict[str, Array]:
        return _answer(explainer, images, target, versus, layer)

    for batch in _batches(images):
        for name, error in _compare(ask_graph, reference, batch, range(1)).items():
            errors[name] = float(np.maximum(errors.get(name, 0.0), error))  # keeps NaN
    limits: dict[str, float] = {}
    earlier = range(1, len(reference.subject.layers))
    if earlier:
        # In float64 the way through a whole network and back is slow: two images have to do for the other layers.
        found = _compare(ask_graph, reference, images[:2], earlier)
        rounding = _compare(ask_torch, reference, images[:2], earlier)
        for name, error in found.items():
            if name.startswith("gradcam."):
                errors[name] = error
                limits[name] = max(tolerance, KINKS * rounding[name])
            else:
                errors[name] = float(np.maximum(errors[name], error))
    report = ParityReport(len(images), errors, tolerance, limits=limits)
    if not report.passed:
        raise ParityError(f"the graph disagrees with the network; nothing was written\n{report}")
    return report


def _answer(explainer: Explainer, images: Array, target: Array, versus: Array, layer: int) -> dict[str, Array]:
    """Return what torch answers in float32, in the form of the graph's outputs."""
    with torch.no_grad():
        tensors = explainer(*map(torch.from_numpy, (images, target, versus)), torch.tensor(layer))
    first_map = len(tensors) - 3 * len(explainer.subject.layers) + 2
    names = {"logits": 0, "probabilities": 1, "explained": 2, "gradcam": first_map + layer}
    if first_map == 4:
        names["attention"] = 3
    return {name: tensors[index].detach().numpy() for name, index in names.items()}


def _batches(images: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
    """Return the images in batches of the sizes in turn; the last of each size is filled up from the start."""
    batches: list[npt.NDArray[np.uint8]] = []
    start = 0
    while start < len(images) or len(batches) < len(BATCHES):
        size = BATCHES[len(batches) % len(BATCHES)]
        batches.append(np.take(images, range(start, start + size), axis=0, mode="wrap"))
        start += size
    return batches


def _compare(ask: Ask, reference: Explainer, images: npt.NDArray[np.uint8], layers: range) -> dict[str, float]:
    """Return the errors of one batch, maps of the given layers."""
    none = reference.num_classes
    target = np.tile(np.array([-1, -2, -1], dtype=np.int64), (len(images), 1))
    versus = np.tile(np.array([none, none, -2], dtype=np.int64), (len(images), 1))
    answers = [ask(images, target, versus, layer) for layer in layers]
    outputs = answers[0]
    explained = torch.from_numpy(outputs["explained"])
    contrast = torch.full_like(explained, none)
    contrast[:, 2] = explained[:, 1]
    with torch.no_grad():
        x = reference.normalise(torch.from_numpy(images))
        passed = reference.subject(x)
        weights = _weights(reference, x, passed, reference.cotangent(explained, contrast), layers)
    logits = passed.logits
    largest = float(logits.abs().max().clamp_min(1))
    errors = {
        "logits": _largest(outputs["logits"], logits) / largest,
        # By how much a class that was explained as second is above the first, and so on.
        "ranks": _disorder(logits, explained) / largest,
        "probabilities": _largest(outputs["probabilities"], torch.softmax(logits / reference.temperature, 1)),
    }
    if passed.attention is not None:
        errors["attention"] = _largest(outputs["attention"], passed.attention)
    for layer, alpha, answer in zip(layers, weights, answers, strict=True):
        feature_map = passed.maps[layer]
        maps, terms = activation_maps(alpha, feature_map), activation_maps(alpha.abs(), feature_map.abs())
        scale = terms.amax((2, 3), keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        name = f"gradcam.{reference.subject.layers[layer]}"
        errors[name] = _largest(answer["gradcam"] / scale.numpy(), maps / scale)
    return errors


def _weights(reference: Explainer, x: Tensor, passed: Passed, cotangent: Tensor, layers: range) -> tuple[Tensor, ...]:
    if layers.start == 0:
        return (reference.subject.last_gradients(x, passed, cotangent),)
    # One target at a time: the activations of all copies would be gigabytes.
    parts = [
        reference.subject.earlier_gradients(x, passed, one).weights for one in cotangent.transpose(0, 1)[:, :, None]
    ]
    return tuple(torch.cat(of_layer, dim=1) for of_layer in zip(*parts, strict=True))


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
