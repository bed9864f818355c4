"""The graph contract as a torch module: uint8 images and class codes in, logits, attention and Grad-CAM out.

It runs eagerly, in any float type, as the reference of the parity check, and `model.graph` traces it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.network import Network


class Passed(NamedTuple):
    """One forward pass.

    Attributes:
        logits: (N, K).
        maps: feature map of every explainable layer, (N, C, h, w) each; last stage first.
        attention: spatial attention in [0, 1], (N, h, w), or None.
    """

    logits: Tensor
    maps: tuple[Tensor, ...]
    attention: Tensor | None


class Subject(nn.Module):
    """A classifier that can be explained: it shows its feature maps and how the logits depend on them."""

    layers: tuple[str, ...]
    """Names of the explainable layers, last stage first."""

    has_attention: bool

    def forward(self, x: Tensor) -> Passed:
        """Classify normalised images, (N, 3, S, S)."""
        raise NotImplementedError

    def channel_gradients(self, x: Tensor, passed: Passed, index: int, cotangent: Tensor) -> Tensor:
        """Return `mean_hw(dy/dA)` of the layer `index`, (N, T, C), for y = sum_k cotangent_k · logit_k.

        Args:
            x: normalised images, (N, 3, S, S).
            passed: of `forward`.
            index: of the layer in `layers`.
            cotangent: weights of the logits in y, (N, T, K).

        Source: Selvaraju et al. 2017, arXiv:1610.02391, eq. 1.
        """
        raise NotImplementedError

    def named_constants(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter and buffer under its name in the classifier's state dict."""
        for _, classifier in self.named_children():
            yield from classifier.named_parameters()
            yield from classifier.named_buffers()


class NetworkSubject(Subject):
    """A network of this project: the last stage is explained behind the attention, earlier ones in the backbone."""

    def __init__(self, network: Network, num_layers: int | None = None) -> None:
        super().__init__()
        self.network = network
        stages = network.backbone.stages[::-1]
        self.layers = tuple(stage.name for stage in stages[:num_layers])
        self.has_attention = network.has_attention

    def forward(self, x: Tensor) -> Passed:
        """Classify normalised images, (N, 3, S, S)."""
        maps = self.network.backbone.forward_stages(x)
        attended = self.network.attend(maps[-1])
        earlier = maps[:-1][::-1][: len(self.layers) - 1]
        logits = self.network.forward_head(attended.feature_map)
        return Passed(logits, (attended.feature_map, *earlier), attended.attention)

    def channel_gradients(self, x: Tensor, passed: Passed, index: int, cotangent: Tensor) -> Tensor:
        """Return `mean_hw(dy/dA)`; for the last stage at the cost of the head on one vector a target."""
        feature_map = passed.maps[index]
        if index > 0:
            name = self.layers[index]
            return gradients(lambda a: self.network.forward_from(name, a), feature_map, cotangent).mean((3, 4))
        cells = feature_map.shape[2] * feature_map.shape[3]
        # Global pooling: dy/dpooled = sum_hw(dy/dX'), whether it is the mean or the maximum.
        return gradients(self.network.classify, self.network.pool(feature_map), cotangent) / cells


class Explainer(nn.Module):
    """Everything between the bytes of an image and the maps: normalisation, codes, gradients, calibration.

    Args:
        subject: the classifier.
        num_classes: K.
        mean: subtracted after scaling to [0, 1], RGB.
        std: divided by, RGB.
        temperature: probabilities = softmax(logits / temperature).
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, subject: Subject, num_classes: int, mean: Sequence[float], std: Sequence[float], temperature: float
    ) -> None:
        super().__init__()
        self.subject = subject
        self.num_classes = num_classes
        self.temperature = temperature
        deviation = torch.tensor(std, dtype=torch.float64)[:, None, None]
        self.register_buffer("scale", (1 / (255 * deviation)).float(), persistent=False)
        shift = -torch.tensor(mean, dtype=torch.float64)[:, None, None] / deviation
        self.register_buffer("shift", shift.float(), persistent=False)

    def forward(self, image: Tensor, target: Tensor, versus: Tensor, layer: Tensor) -> tuple[Tensor, ...]:
        """Answer the graph contract, with one `gradcam` for every layer at the end.

        Args:
            image: RGB, uint8, (N, S, S, 3).
            target: class to explain, or -1…-K for the class of rank 1…K, int64, (N, T).
            versus: class to contrast it with, by the same code, or K for none, int64, (N, T).
            layer: asked for, int64, scalar; decides only what is valid, for all maps are returned.

        Returns:
            logits (N, K); probabilities (N, K); explained (N, T), -1 where a code is invalid; attention
            (N, h, w) if there is one; then a map (N, T, h, w) for each layer, NaN where a code is invalid.
        """
        x = self.normalise(image)
        passed: Passed = self.subject(x)
        target, versus, valid = self._resolve(passed.logits, target, versus)
        valid = valid & (layer >= 0) & (layer < len(self.subject.layers))
        cotangent = self.cotangent(target, versus)
        gradcams = [
            _mask(activation_maps(self.subject.channel_gradients(x, passed, index, cotangent), feature_map), valid)
            for index, feature_map in enumerate(passed.maps)
        ]
        attention = () if passed.attention is None else (passed.attention,)
        probabilities = torch.softmax(passed.logits / self.temperature, dim=1)
        return passed.logits, probabilities, torch.where(valid, target, -1), *attention, *gradcams

    def named_constants(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter and buffer; the classifier's under the names of its own state dict."""
        yield from self.subject.named_constants()
        yield "normalise.scale", self.scale
        yield "normalise.shift", self.shift

    def normalise(self, image: Tensor) -> Tensor:
        """Return uint8 images, (N, S, S, 3), as the classifier wants them, (N, 3, S, S)."""
        return image.permute(0, 3, 1, 2).to(self.scale.dtype) * self.scale + self.shift

    def cotangent(self, target: Tensor, versus: Tensor) -> Tensor:
        """Return what each logit counts in the explained score, (N, T, K): +1 the target, -1 the contrast."""
        classes = torch.arange(self.num_classes, device=target.device)
        # Compared, not indexed: a class outside 0…K-1, such as none, counts nothing.
        wanted, unwanted = (target[:, :, None] == classes), (versus[:, :, None] == classes)
        return wanted.to(self.scale.dtype) - unwanted.to(self.scale.dtype)

    def _resolve(self, logits: Tensor, target: Tensor, versus: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Turn codes into classes and say which are valid: (N, T) each."""
        count = self.num_classes
        valid = (target >= -count) & (target < count) & (versus >= -count) & (versus <= count)
        order = torch.topk(logits, count, dim=1).indices

        def resolve(code: Tensor) -> Tensor:
            # The clamp keeps the index inside: runtimes refuse a large one and wrap a negative one.
            ranked = torch.gather(order, 1, (-code - 1).clamp(0, count - 1))
            return torch.where(code < 0, ranked, code)

        return resolve(target), resolve(versus), valid


def activation_maps(channel_gradients: Tensor, feature_map: Tensor) -> Tensor:
    """Return relu(sum_k alpha_k A_k) of every target: alpha (N, T, C) and A (N, C, h, w) → (N, T, h, w)."""
    maps = torch.bmm(channel_gradients, feature_map.flatten(2))
    return torch.relu(maps).view(*maps.shape[:2], *feature_map.shape[2:])


def gradients(tail: Callable[[Tensor], Tensor], value: Tensor, cotangent: Tensor) -> Tensor:
    """Return d(cotangent · tail(value))/dvalue for every target, each on its own copy of the value.

    Args:
        tail: from the value, (M, *), to logits, (M, K); must treat the rows apart.
        value: (N, *).
        cotangent: (N, T, K).

    Returns:
        (N, T, *).
    """
    num_targets = cotangent.shape[1]
    copies = value.detach().unsqueeze(1).expand(-1, num_targets, *value.shape[1:]).flatten(0, 1)
    with torch.enable_grad():
        copies = copies.requires_grad_()
        (gradient,) = torch.autograd.grad(tail(copies), copies, cotangent.flatten(0, 1))
    return gradient.view(value.shape[0], num_targets, *value.shape[1:])


def _mask(maps: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid[:, :, None, None], maps, torch.nan)
