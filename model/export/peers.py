"""The same map by other libraries: captum, torchcam and pytorch-grad-cam, those that are installed.

Each hooks an `Identity` behind the explained feature map. Maps are compared after scaling to [0, 1], because the
libraries scale them differently.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model.contract.graph import codes_of_best
from model.explain.explainer import Explainer
from model.explain.foreign import ExplainableModule
from model.export.running import Runnable, run, session
from model.network.network import Network

EPSILON = 1e-7


class Tapped(nn.Module):
    """A classifier whose explained feature map passes through `tap`, for the hooks.

    Args:
        explainer: holds the classifier.
        whole: continue gradients to the image, as in a network that is not frozen; else they end at the tap.
    """

    def __init__(self, explainer: Explainer, whole: bool = True) -> None:
        super().__init__()
        self.whole = whole
        self.classifier = explainer.classifier.network
        self.tap = nn.Identity()
        self.layer = explainer.classifier.layers[0] if isinstance(explainer.classifier, ExplainableModule) else ""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, K), of normalised images, (N, 3, S, S)."""
        if isinstance(self.classifier, Network):
            return tapped_logits(self.classifier, self._tap, x)
        # The rest works on a copy: the peers would read a map that was changed in place.
        layer = self.classifier.get_submodule(self.layer)
        hook = layer.register_forward_hook(lambda module, args, output: self._tap(output).clone())
        try:
            logits: Tensor = self.classifier(x)
        finally:
            hook.remove()
        return logits

    def _tap(self, feature_map: Tensor) -> Tensor:
        tapped: Tensor = self.tap(feature_map if self.whole else feature_map.detach().requires_grad_())
        return tapped


def tapped_logits(network: Network, tap: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the logits, (N, K), of normalised images, computed from the map behind a tap, which peers explain.

    Where parts vote the map is of two layers, and the peers explain one. So the map at the tap is of both, on the
    marks' grid: the head's channels, and what is read at each part times where it is read, whose means are what the
    votes are made of. The head gets what it gets in the network, and passes its gradient on to the map on the grid.
    """
    answer = network.answer(network.backbone.forward_maps(x))
    if answer.votes is None:
        return network.forward_head(tap(answer.attended.feature_map))
    weights, features = answer.votes.reading.weights, answer.votes.reading.features
    read = (weights[:, :, None] * features[:, None]).flatten(1, 2) * network.config.mark_grid**2
    mapped = network.on_grid(answer.attended.feature_map)
    pooled = tap(torch.cat([mapped, read], 1)).mean((2, 3))
    of_head, of_votes = torch.split(pooled, [mapped.shape[1], read.shape[1]], 1)
    logits = network.classify(answer.pooled.detach() + of_head - of_head.detach())
    return logits + of_votes @ answer.votes.weight.T


def compare_with_peers(
    model: Runnable, explainer: Explainer, images: npt.NDArray[np.uint8], most: int = 2
) -> dict[str, float]:
    """Return for each installed peer the largest difference of its maps from the graph's, both scaled to [0, 1].

    Args:
        model: the graph.
        explainer: the network that it was made of.
        images: RGB, uint8, (n, S, S, 3).
        most: images compared.
    """
    runtime, module = session(model), Tapped(explainer, whole=False)
    largest: dict[str, float] = {}
    for image in images[:most]:
        outputs = run(runtime, image[None], *codes_of_best(1, explainer.num_classes))
        x, target = explainer.normalise(torch.from_numpy(image[None])), int(outputs["explained"][0, 0])
        ours = _scaled(outputs["gradcam"][0, 0].astype(np.float64))
        for name, peer in PEERS.items():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # each of them uses something its dependencies deprecate
                    theirs = peer.explain(module, x.clone(), target)
            except ImportError:
                continue
            error = float(np.abs(ours - _scaled(theirs)).max())
            largest[name] = float(np.maximum(largest.get(name, 0.0), error))
    return largest


def captum_map(module: Tapped, x: Tensor, target: int) -> npt.NDArray[np.float64]:
    """Return captum's map of one image, (h, w)."""
    from captum.attr import LayerGradCam

    attribution = LayerGradCam(module, module.tap).attribute(x, target, relu_attributions=True)
    return _array(attribution[0, 0])


def torchcam_map(module: Tapped, x: Tensor, target: int) -> npt.NDArray[np.float64]:
    """Return torchcam's map of one image, (h, w)."""
    from torchcam.methods import GradCAM

    with GradCAM(module, target_layer=module.tap) as extractor:
        return _array(extractor(target, module(x.requires_grad_()))[0][0])


def pytorch_grad_cam_map(module: Tapped, x: Tensor, target: int) -> npt.NDArray[np.float64]:
    """Return pytorch-grad-cam's map of one image, (h, w)."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with GradCAM(module, [module.tap]) as extractor:
        extractor.get_target_width_height = lambda _: None  # else the map is resized to the image
        result: npt.NDArray[np.float64] = extractor(x, [ClassifierOutputTarget(target)])[0].astype(np.float64)
    return result


class Peer(NamedTuple):
    """Another implementation.

    Attributes:
        package: by which pip installs it.
        explain: returns its map of one image, (h, w); raises ImportError where it is not installed.
    """

    package: str
    explain: Callable[[Tapped, Tensor, int], npt.NDArray[np.float64]]


PEERS = {
    "captum": Peer("captum", captum_map),
    "torchcam": Peer("torchcam", torchcam_map),
    "pytorch-grad-cam": Peer("grad-cam", pytorch_grad_cam_map),
}


def _array(values: Tensor) -> npt.NDArray[np.float64]:
    result: npt.NDArray[np.float64] = values.detach().double().numpy()
    return result


def _scaled(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a map scaled to [0, 1] as pytorch-grad-cam does; one without any evidence stays zero."""
    if not values.any():
        return values
    shifted = values - values.min()
    result: npt.NDArray[np.float64] = shifted / (EPSILON + shifted.max())
    return result
