"""Does a map depend on what the network has learnt? Give layers fresh weights, and see whether the map changes.

A map that stays the same when the layers it explains know nothing any more is an edge detector, not an explanation.

Source: Adebayo et al. 2018, arXiv:1810.03292, section 3 (cascading randomisation; Spearman's rank correlation).
"""

import copy
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.explain.gradcam import class_map
from model.network.network import Answer, Network, build_network
from training.evaluation.figures import Figure, mean

Floats = npt.NDArray[np.floating]
Features = dict[str | None, Tensor]
"""Step of the backbone → its output for all photos; None → the photos."""

ORIGINAL = "original"
"""Name of the step at which nothing is randomised."""
BATCH = 8
"""On a CPU, of photos of 288 px, 32 take more than twice as long each."""


def randomised(network: Network, photos: Tensor, seed: int = 0) -> Network:
    """Return a network of the same build that has learnt nothing, in evaluation mode: the row `random_weights`.

    Its batch norms take the statistics of photos; without, the fresh network's units saturate or die layer by layer.

    Args:
        network: is not changed.
        photos: normalised, (n ≥ 2, 3, S, S).
        seed: of the weights.
    """
    fresh = _fresh(network, seed)
    _estimate_statistics(fresh, [fresh], photos, None)
    return fresh


def cascade(
    network: Network, photos: Tensor, statistics: Tensor, layers: Sequence[str] = (), seed: int = 0
) -> dict[str, Floats]:
    """Return how like its original each photo's map is while layers get fresh weights, from the top downwards.

    Args:
        network: in evaluation mode; is not changed.
        photos: normalised, (n, 3, S, S).
        statistics: normalised photos, (m ≥ 2, 3, S, S), whose statistics batch norms with fresh weights take.
        layers: of `layers_from_top`, after which maps are measured; empty: after every one.
        seed: of the weights.

    Returns:
        Layer → Spearman's rank correlation of Grad-CAM of the class that the original network predicts with its
        original map, (n,): `original` (1), then the layers, each name standing for itself and all layers above it. A
        map that has become the same everywhere ranks nothing: 0. NaN where the original is the same everywhere.
    """
    changed, fresh = copy.deepcopy(network).eval(), _fresh(network, seed)
    kept, kept_statistics = _features(network, photos), _features(network, statistics)
    start = _nearest(network, "head", kept)
    with torch.no_grad():
        classes = _answer(network, kept[start], start).logits.argmax(1)
    original = gradcam_of(network, kept[start], classes, start)
    found = {ORIGINAL: rank_correlations(original, original)}
    renewed: list[nn.Module] = []
    for layer in layers_from_top(network):
        renewed.append(changed.get_submodule(layer))
        renewed[-1].load_state_dict(fresh.get_submodule(layer).state_dict())
        if not layers or layer in layers:
            start = _nearest(network, layer, kept)
            _estimate_statistics(changed, renewed, kept_statistics[start], start)
            found[layer] = rank_correlations(original, gradcam_of(changed, kept[start], classes, start))
    return found


def cascade_figures(correlations: Mapping[str, Floats]) -> dict[str, Figure]:
    """Return the mean over photos of every layer's correlations by its name in JSON, `sanity_head` for example."""
    return {f"sanity_{layer}": mean(values) for layer, values in correlations.items()}


def layers_from_top(network: Network) -> list[str]:
    """Return the paths of the modules with weights, from the head on, then the backbone's steps from last to first.

    Where parts vote, what they read comes with them.
    """
    voting = [] if network.part_votes is None else ["part_votes", "mark_head"]
    names = ["head", *voting, "attention", *(f"backbone.{step}" for step in reversed(network.backbone.steps))]
    return [name for name in names if any(True for _ in network.get_submodule(name).parameters())]


def gradcam_of(network: Network, photos: Tensor, classes: Tensor, after: str | None = None) -> Floats:
    """Return Grad-CAM of one class of each photo, (n, h, w).

    Args:
        network: in evaluation mode.
        photos: normalised, (n, 3, S, S), or their features.
        classes: (n,), int64.
        after: step of the backbone that the features are of.
    """
    maps = []
    for part, targets in zip(torch.split(photos, BATCH), torch.split(classes, BATCH), strict=True):
        with torch.no_grad():
            maps.append(class_map(network, _answer(network, part, after), targets))
    return torch.cat(maps).numpy()


def rank_correlations(original: Floats, maps: Floats) -> Floats:
    """Return Spearman's rank correlation of each map with its original, (n, h, w) both → (n,).

    NaN where the original is the same everywhere, 0 where only the other is.
    """
    found = np.zeros(len(maps))
    for index, (one, other) in enumerate(zip(original, maps, strict=True)):
        if np.ptp(one) == 0:
            found[index] = np.nan
        elif np.ptp(other) > 0:
            found[index] = spearmanr(one, other, axis=None).statistic
    return found


def _fresh(network: Network, seed: int) -> Network:
    """Return a network of the same build with seeded initial weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(network.config).eval()


@torch.no_grad()
def _features(network: Network, photos: Tensor) -> Features:
    """Return the photos, and the output of every step of the backbone that is no larger than they are."""
    kept: dict[str | None, list[Tensor]] = {None: list(torch.split(photos, BATCH))}
    for part in torch.split(photos, BATCH):
        x = part
        for step in network.backbone.steps:
            x = network.backbone.get_submodule(step)(x)
            if x[0].numel() <= photos[0].numel():
                kept.setdefault(step, []).append(x)
    return {step: torch.cat(parts) for step, parts in kept.items()}


def _nearest(network: Network, layer: str, kept: Features) -> str | None:
    """Return the last step below a layer, and below what parts are read from, whose output was kept."""
    backbone, name = network.backbone, layer.removeprefix("backbone.")
    ends = [name] if name in backbone.steps else []
    if network.part_votes is not None and network.mark_head is not None:
        ends += [backbone.maps[index].name for index in network.mark_head.stages_served]
    below = backbone.steps[: min(map(backbone.steps.index, ends), default=len(backbone.steps))]
    return next((step for step in reversed(below) if step in kept), None)


def _answer(network: Network, photos: Tensor, after: str | None) -> Answer:
    """Return the answer to normalised photos, or to the features of the step `after`."""
    return network.answer(network.backbone.forward_maps(photos, after) or [photos])  # after the last step: its map


@torch.no_grad()
def _estimate_statistics(network: Network, modules: Sequence[nn.Module], photos: Tensor, after: str | None) -> None:
    """Set the running statistics of the batch norms in these modules to those of photos, or of a step's features."""
    norms = list(_norms(modules))
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over the batches
        norm.train()
    # In parts of almost the same size: a last one of a single photo has no variance.
    for part in torch.tensor_split(photos, -(-len(photos) // BATCH)):
        _answer(network, part, after)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _norms(modules: Sequence[nn.Module]) -> Iterator[_BatchNorm]:
    for module in modules:
        yield from (part for part in module.modules() if isinstance(part, _BatchNorm))
