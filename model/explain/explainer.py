"""The graph contract as a torch module: uint8 images and class codes in, logits, maps, marks and vectors out.

It runs eagerly, in any float type, as the reference of the parity check, and `model.export.tracing` traces it.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.contract.graph import UNKNOWN, inputs_of, outputs_of
from model.contract.manifest import Manifest
from model.explain.embedding import Embedding
from model.explain.marks import MarkReader
from model.explain.novelty import NoveltyScore
from model.network.marks import MarkReading
from model.network.network import Network
from model.network.votes import Votes


class Passed(NamedTuple):
    """One forward pass.

    Attributes:
        logits: (N, K).
        maps: feature map of every explainable layer, (N, C, h, w) each; last stage first.
        attention: spatial attention in [0, 1], (N, h, w), or None; on the grid of the last stage's Grad-CAM.
        pooled: the vector before the head, (N, C), or None where it is not known.
        reading: of the marks, or None where there are none.
        votes: of the parts on the classes, or None where they have none.
    """

    logits: Tensor
    maps: tuple[Tensor, ...]
    attention: Tensor | None
    pooled: Tensor | None = None
    reading: MarkReading | None = None
    votes: Votes | None = None


class Gradients(NamedTuple):
    """Grad-CAM's channel weights of the layers before the last stage, computed in one pass over copies.

    Attributes:
        weights: `mean_hw(dy/dA)` of each layer, (N, T, C), later layers first.
        copies: the feature map of each layer once for every target, (N·T, C, h, w): the inputs of its part.
    """

    weights: tuple[Tensor, ...]
    copies: tuple[Tensor, ...]


class ExplainableClassifier(nn.Module):
    """A classifier that shows its feature maps and how the logits depend on them.

    Args:
        network: takes normalised images, (N, 3, S, S), and returns logits, (N, K).
        layers: names of the explainable layers, last stage first.

    Attributes:
        network: as given.
        layers: as given.
        has_attention: whether it has a spatial attention map.
    """

    has_attention = False

    def __init__(self, network: nn.Module, layers: Iterable[str]) -> None:
        super().__init__()
        self.network = network
        self.layers = tuple(layers)

    @property
    def feature_extractor(self) -> nn.Module:
        """The part that may compute in a smaller precision: everything, where the head is unknown."""
        return self.network

    def forward(self, x: Tensor) -> Passed:
        """Classify normalised images, (N, 3, S, S)."""
        raise NotImplementedError

    @property
    def regular_grid(self) -> int | None:
        """Side of the regular grid over the input that the last stage's maps are on; None: they are on its cells."""
        return None

    def last_maps(self, weights: Tensor, passed: Passed, cotangent: Tensor) -> Tensor:
        """Return the last stage's maps, (N, T, h, w), of its channel weights; the other arguments are as below."""
        return activation_maps(weights, passed.maps[0])

    def last_gradients(self, x: Tensor, passed: Passed, cotangent: Tensor) -> Tensor:
        """Return `mean_hw(dy/dA)` of the last stage, (N, T, C), for y = sum_k cotangent_k · logit_k.

        Args:
            x: normalised images, (N, 3, S, S).
            passed: of `forward`.
            cotangent: weight of each logit in y, (N, T, K).

        Source: Selvaraju et al. 2017, arXiv:1610.02391, eq. 1.
        """
        raise NotImplementedError

    def earlier_gradients(self, x: Tensor, passed: Passed, cotangent: Tensor) -> Gradients:
        """Return the same for all other layers; the arguments are those of `last_gradients`."""
        raise NotImplementedError


class ExplainableNetwork(ExplainableClassifier):
    """A network of this project: the last stage is explained behind the attention, earlier ones in the backbone."""

    network: Network

    def __init__(self, network: Network) -> None:
        super().__init__(network, (stage.name for stage in reversed(network.backbone.stages)))
        self.has_attention = network.has_attention

    @property
    def feature_extractor(self) -> nn.Module:
        """The backbone; attention and head stay in float32."""
        return self.network.backbone

    def forward(self, x: Tensor) -> Passed:
        """Classify normalised images, (N, 3, S, S)."""
        dtype = next(self.network.backbone.parameters()).dtype  # head and attention have the input's
        read = self.network.backbone.forward_maps(x.to(dtype))
        *earlier, _, _ = read  # the one before the last is for the marks alone
        floats = [each.to(x.dtype) for each in read]
        answer = self.network.answer(floats)
        maps = (answer.attended.feature_map, *reversed(earlier))[: len(self.layers)]
        reading = None if self.network.mark_head is None else self.network.reading_of(answer, floats)
        attention = self.network.attention_map(answer)
        return Passed(answer.logits, maps, attention, answer.pooled, reading, answer.votes)

    @property
    def regular_grid(self) -> int | None:
        """The marks' grid, where parts vote."""
        return None if self.network.part_votes is None else self.network.config.mark_grid

    def last_maps(self, weights: Tensor, passed: Passed, cotangent: Tensor) -> Tensor:
        """Return Grad-CAM, and what the parts add to it."""
        if passed.votes is None:
            return activation_maps(weights, passed.maps[0])
        maps = self.network.class_maps(weighted_sums(weights, passed.maps[0]), passed.votes, cotangent)
        return torch.relu(maps)

    def last_gradients(self, x: Tensor, passed: Passed, cotangent: Tensor) -> Tensor:
        """Return `mean_hw(dy/dX')` at the cost of the head on one vector a target."""
        feature_map = passed.maps[0]
        copies = copies_of(self.network.pool(feature_map), cotangent)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self.network.classify(copies), copies, cotangent.flatten(0, 1))
        # Global pooling: dy/dpooled = sum_hw(dy/dX'), whether it is the mean or the maximum.
        cells = feature_map.shape[2] * feature_map.shape[3]
        return gradient.view(*cotangent.shape[:2], -1) / cells

    def earlier_gradients(self, x: Tensor, passed: Passed, cotangent: Tensor) -> Gradients:
        """Go from the earliest layer to the logits once, and back through all layers."""
        earliest = copies_of(passed.maps[-1], cotangent)
        with torch.enable_grad():
            *later, narrow, last = self.network.backbone.forward_maps(earliest, after=self.layers[-1])
            logits = self.network.answer([each.to(x.dtype) for each in (earliest, *later, narrow, last)]).logits
            return mean_gradients(logits, (*reversed(later), earliest), cotangent)


class Explainer(nn.Module):
    """Everything between the bytes of an image and the maps: normalisation, codes, gradients, calibration.

    Args:
        classifier: the classifier.
        manifest: for the labels, normalisation and temperature.
        marks: what reads the classifier's marks; None where it has none.
        embedding: of what the classifier pools; None where there is none.
        novelty: of its logits and of what it pools, for which it needs the embedding; None where there is none.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        classifier: ExplainableClassifier,
        manifest: Manifest,
        marks: MarkReader | None = None,
        embedding: Embedding | None = None,
        novelty: NoveltyScore | None = None,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.marks, self.embedding, self.novelty = marks, embedding, novelty
        self.num_classes = manifest.num_classes
        self.temperature = manifest.temperature
        deviation = torch.tensor(manifest.std, dtype=torch.float64)[:, None, None]
        self.register_buffer("scale", (1 / (255 * deviation)).float(), persistent=False)
        shift = -torch.tensor(manifest.mean, dtype=torch.float64)[:, None, None] / deviation
        self.register_buffer("shift", shift.float(), persistent=False)

    @property
    def ranks_by_map(self) -> bool:
        """Whether the class's map lies on the marks' grid, so that marks are ranked by it too."""
        return self.marks is not None and self.classifier.regular_grid == self.marks.grid[0]

    @property
    def inputs(self) -> list[str]:
        """Names of the arguments of `forward`, as the graph has them."""
        return inputs_of(self.marks is not None)

    @property
    def outputs(self) -> list[str]:
        """Names of what every request computes, in the graph's order."""
        return outputs_of(
            attention=self.classifier.has_attention,
            embedding=self.embedding is not None,
            novelty=self.novelty is not None,
            marks=self.marks is not None,
        )

    def forward(
        self, image: Tensor, target: Tensor, versus: Tensor, layer: Tensor, mark: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Answer the graph contract, with one `gradcam` for every layer and what the branches are cut at.

        Args:
            image: RGB, uint8, (N, S, S, 3).
            target: class to explain, or -1…-K for the class of rank 1…K, int64, (N, T).
            versus: class to contrast it with, by the same code, or K for none, int64, (N, T).
            layer: index, int64, scalar; only checked, because the maps of all layers are returned.
            mark: mark whose map is requested, or -1…-8 for that of rank 1…8, int64, (N, M); None without marks.

        Returns:
            `outputs`, where `gradcam` is the last stage's map, (N, T, h, w), NaN where a code is invalid; a map of each
            earlier layer; its feature map (N, C, h, w); its copies (N·T, C, h, w).
        """
        x = self.normalise(image)
        passed: Passed = self.classifier(x)
        target, versus, named = self._resolve(passed.logits, target, versus)
        valid = named & (layer >= 0) & (layer < len(self.classifier.layers))
        cotangent = self.cotangent(target, versus)
        weights = [self.classifier.last_gradients(x, passed, cotangent)]
        copies: tuple[Tensor, ...] = ()
        if len(self.classifier.layers) > 1:
            earlier, copies = self.classifier.earlier_gradients(x, passed, cotangent)
            weights.extend(earlier)
        maps = [self.classifier.last_maps(weights[0], passed, cotangent)]
        maps += [activation_maps(alpha, a) for alpha, a in zip(weights[1:], passed.maps[1:], strict=True)]
        last, *others = [torch.where(valid[:, :, None, None], a, torch.nan) for a in maps]
        found = [passed.logits, torch.softmax(passed.logits / self.temperature, dim=1)]
        if passed.attention is not None:
            found.append(passed.attention)
        found += [last, torch.where(valid, target, UNKNOWN)]
        if self.embedding is not None:
            found.append(self.embedding(passed.pooled))
        if self.novelty is not None and self.embedding is not None and passed.pooled is not None:
            found.append(self.novelty(passed.logits, passed.pooled, self.embedding.outside(passed.pooled)))
        if self.marks is not None:
            class_map = maps[0][:, 0] if self.ranks_by_map else None
            found += self.marks(passed.reading, cotangent[:, 0], named[:, 0], mark, class_map)
        return *found, *others, *passed.maps[1:], *copies

    def named_constants(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter and buffer; the network's under the names of its own state dict."""
        yield from self.classifier.network.named_parameters()
        yield from self.classifier.network.named_buffers()
        yield "normalise.scale", self.scale
        yield "normalise.shift", self.shift
        for name, part in (("marks", self.marks), ("embedding", self.embedding), ("novelty", self.novelty)):
            if part is not None:
                yield from ((f"{name}.{own}", tensor) for own, tensor in part.named_buffers(recurse=False))

    def normalise(self, image: Tensor) -> Tensor:
        """Return uint8 images, (N, S, S, 3), as the classifier takes them, (N, 3, S, S)."""
        # Whole rows at a time: runtimes move the permutation to the end, and broadcasting over 3 values is slow.
        scale, shift = (factor.flatten().repeat(image.shape[2]) for factor in (self.scale, self.shift))
        rows = image.flatten(2).to(self.scale.dtype) * scale + shift
        return rows.view(image.shape).permute(0, 3, 1, 2)

    def cotangent(self, target: Tensor, versus: Tensor) -> Tensor:
        """Return the weight of each logit in the explained score, (N, T, K): +1 the target, -1 the contrast."""
        classes = torch.arange(self.num_classes, device=target.device)
        # Compared, not indexed: a class outside 0…K-1, such as none, has weight 0.
        wanted, unwanted = (target[:, :, None] == classes), (versus[:, :, None] == classes)
        return wanted.to(self.scale.dtype) - unwanted.to(self.scale.dtype)

    def _resolve(self, logits: Tensor, target: Tensor, versus: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Turn codes into classes and return which are valid: (N, T) each."""
        count = self.num_classes
        valid = (target >= -count) & (target < count) & (versus >= -count) & (versus <= count)
        order = torch.topk(logits, count, dim=1).indices

        def resolve(code: Tensor) -> Tensor:
            # The clamp keeps the index in range: runtimes refuse a large one and wrap a negative one.
            ranked = torch.gather(order, 1, (-code - 1).clamp(0, count - 1))
            return torch.where(code < 0, ranked, code)

        return resolve(target), resolve(versus), valid


def activation_maps(channel_gradients: Tensor, feature_map: Tensor) -> Tensor:
    """Return relu(sum_k alpha_k A_k) of every target: alpha (N, T, C) and A (N, C, h, w) → (N, T, h, w)."""
    return torch.relu(weighted_sums(channel_gradients, feature_map))


def weighted_sums(channel_gradients: Tensor, feature_map: Tensor) -> Tensor:
    """Return the same before the ReLU."""
    maps = torch.bmm(channel_gradients, feature_map.to(channel_gradients.dtype).flatten(2))
    return maps.view(*maps.shape[:2], *feature_map.shape[2:])


def copies_of(value: Tensor, cotangent: Tensor) -> Tensor:
    """Return a value (N, *) once for every target, (N·T, *), to differentiate by: targets must not mix."""
    copies = value.detach().unsqueeze(1).expand(-1, cotangent.shape[1], *value.shape[1:])
    return copies.flatten(0, 1).requires_grad_()


def mean_gradients(logits: Tensor, copies: tuple[Tensor, ...], cotangent: Tensor) -> Gradients:
    """Differentiate the logits of all copies, (N·T, K), by every layer's copies."""
    scale = gradient_scale(copies[0].dtype)
    gradients = torch.autograd.grad(logits, copies, cotangent.flatten(0, 1) * scale)
    means = (gradient.to(cotangent.dtype).mean((2, 3)) / scale for gradient in gradients)
    return Gradients(tuple(mean.view(*cotangent.shape[:2], -1) for mean in means), copies)


def gradient_scale(dtype: torch.dtype) -> float:
    """Return the factor for logits before differentiation in a float type; gradients are divided by it.

    A float16 gradient would underflow: it is a thousandth of the smallest float16 number, or less.
    """
    return 1024.0 if dtype == torch.float16 else 1.0
