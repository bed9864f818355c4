"""Torchvision's convolutional networks as feature extractors, with their stages and with weights from anywhere.

A backbone keeps torchvision's module names, so torchvision's state dicts load as they are; the classifier is
left out, and its keys are optional in the weights file. An early part can be frozen: its weights and running
statistics stay as they are, and its features can be computed once and passed in its place.
"""

import argparse
import copy
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Self, TypeGuard

import torch
import torchvision.models
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

Weights = Literal["imagenet"] | Path | Mapping[str, Tensor] | None


class WeightsError(ValueError):
    """The weights cannot be loaded, or are of another network; the message names the keys."""


class StageError(ValueError):
    """The backbone has no such stage or step; the message lists the existing ones."""


class Stage(NamedTuple):
    """The last feature map of one resolution.

    Attributes:
        name: module path inside the backbone, torchvision's.
        channels: C of the feature map.
        stride: input pixels a cell, nominal (pooling without padding loses a border).
        centre: pixel that the first cell is centred on; the next cells are a stride apart. Where odd kernels have
            symmetric padding it is pixel 0, not the middle of the first stride.
    """

    name: str
    channels: int
    stride: int
    centre: float = 0.0


def _resnet(*channels: int) -> tuple[Stage, ...]:
    return tuple(Stage(f"layer{i}", c, 2 ** (i + 1)) for i, c in enumerate(channels, 1))


def _features(*stages: tuple[int, int, int]) -> tuple[Stage, ...]:
    return tuple(Stage(f"features.{index}", channels, stride) for index, channels, stride in stages)


def _patches(*stages: tuple[int, int, int]) -> tuple[Stage, ...]:
    """Return stages whose cells stand side by side: pooling and patches without padding or overlap."""
    return tuple(stage._replace(centre=(stage.stride - 1) / 2) for stage in _features(*stages))


STAGES: Mapping[str, tuple[Stage, ...]] = {
    "resnet18": _resnet(64, 128, 256, 512),
    "resnet34": _resnet(64, 128, 256, 512),
    "resnet50": _resnet(256, 512, 1024, 2048),
    "resnet101": _resnet(256, 512, 1024, 2048),
    # Ends before the last max-pool: the method's VGG-16 map is 14×14 at 224 px.
    "vgg16_bn": _patches((5, 64, 1), (12, 128, 2), (22, 256, 4), (32, 512, 8), (42, 512, 16)),
    "mobilenet_v2": _features((1, 16, 2), (3, 24, 4), (6, 32, 8), (13, 96, 16), (18, 1280, 32)),
    "mobilenet_v3_large": _features((1, 16, 2), (3, 24, 4), (6, 40, 8), (12, 112, 16), (16, 960, 32)),
    "efficientnet_b0": _features((1, 16, 2), (2, 24, 4), (3, 40, 8), (5, 112, 16), (8, 1280, 32)),
    "convnext_tiny": _patches((1, 96, 4), (3, 192, 8), (5, 384, 16), (7, 768, 32)),
    # Without padding at its strides, so that each cell is centred where its window ends up.
    "squeezenet1_1": tuple(
        stage._replace(centre=stage.stride - 1)
        for stage in _features((1, 64, 2), (4, 128, 4), (7, 256, 8), (12, 512, 16))
    ),
}
"""Backbone name → its stages, first to last."""


NARROW: Mapping[str, Stage] = {"mobilenet_v2": Stage("features.17", 320, 32)}
"""Backbone name → the map before the last 1×1 convolution, which widens it for the classifier.

Marks are read from it: the wide one names classes better, but marks worse on classes that were not trained on.
"""


STATE_NAMES = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Keys under which checkpoints keep their state dict; the first one present is taken."""
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
"""Names of DenseNet's layers in older files: `norm.1` is `norm1` now."""


class Backbone(nn.Module):
    """A torchvision network up to its last feature map.

    Attributes:
        name: torchvision's.
        stages: explainable feature maps, first to last; the last one is the output.
        maps: the same, and in the last place but one the map before the last widening; the last stage twice if none.
        steps: names of the modules that are applied in order; every stage ends one of them.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in STAGES:
            raise ValueError(f"unknown backbone {name!r}; there are {', '.join(STAGES)}")
        self.name = name
        self.stages = STAGES[name]
        self.maps = (*self.stages[:-1], NARROW.get(name, self.stages[-1]), self.stages[-1])
        whole = torchvision.models.get_model(name, weights=None)
        self.steps = _steps(whole, self.stages[-1].name)
        self._frozen: tuple[str, ...] = ()
        self._frozen_norms = False
        for child in dict.fromkeys(step.split(".")[0] for step in self.steps):
            module = getattr(whole, child)
            if isinstance(module, nn.Sequential) and f"{child}.0" in self.steps:
                module = module[: sum(step.startswith(f"{child}.") for step in self.steps)]
            self.add_module(child, module)
        self._classifier_keys = frozenset(whole.state_dict()) - frozenset(self.state_dict())

    @property
    def out_channels(self) -> int:
        """C of the last feature map."""
        return self.stages[-1].channels

    def forward(self, x: Tensor, after: str | None = None) -> Tensor:
        """Return the last feature map, (N, C, h, w).

        Args:
            x: normalised images, (N, 3, H, W), or the features of the step `after`.
            after: name of the step to continue from.
        """
        for step in self._steps_after(after):
            x = self.get_submodule(step)(x)
        return x

    def forward_stages(self, x: Tensor, after: str | None = None) -> list[Tensor]:
        """Return the feature map of every stage, first to last.

        Args:
            x: normalised images, (N, 3, H, W), or the feature map of the stage `after`.
            after: name of the stage to continue from; its own map is not returned.
        """
        return self._forward_through(x, self.stages, after)

    def forward_maps(self, x: Tensor, after: str | None = None) -> list[Tensor]:
        """Return the feature maps of `maps`; the arguments are those of `forward`.

        Those up to the step `after` are not returned.
        """
        return self._forward_through(x, self.maps, after)

    def frozen_step(self, stages: int = 0, until: str = "") -> str | None:
        """Return the last step of an early part that is described by its stages or by that step.

        Args:
            stages: how many of the first stages.
            until: instead, the name of the last step.

        Returns:
            None where the part is empty.

        Raises:
            StageError: there is no such stage or step.
        """
        if until:
            if until not in self.steps:
                raise StageError(f"freeze_until is {until!r}; {self.name} has {', '.join(self.steps)}")
            return until
        if stages > len(self.stages):
            raise StageError(f"freeze_stages is {stages}; {self.name} has {len(self.stages)}")
        return self.stages[stages - 1].name if stages else None

    def freeze(self, step: str | None, *, norms: bool = False) -> None:
        """Freeze weights and running statistics of everything up to a step, in training mode too.

        Args:
            step: the last one; None for none.
            norms: freeze the running statistics of the later steps too; their weights learn.
        """
        self._frozen = self._steps_until(step)
        self._frozen_norms = norms
        for module in self.modules_until(step):
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the trainable modules; frozen ones stay in evaluation mode."""
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        if self._frozen_norms:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def modules_until(self, step: str | None) -> list[nn.Module]:
        """Return the modules up to a step, in order; none for None."""
        return [self.get_submodule(name) for name in self._steps_until(step)]

    def fused_until(self, step: str, after: str | None = None) -> nn.Module:
        """Return a copy of everything up to a step, in evaluation mode, its batch norms folded into convolutions.

        In evaluation a batch norm is a scale and a shift; on the CPU it takes half of the time of such a network.

        Args:
            step: the last one of the copy.
            after: name of the step whose features the copy takes; None where it takes images.
        """
        modules = self.modules_until(step)[len(self._steps_until(after)) :]
        part = copy.deepcopy(nn.Sequential(*modules)).eval().requires_grad_(False)
        return fuse(part, inplace=True)

    def _steps_until(self, step: str | None) -> tuple[str, ...]:
        return () if step is None else self.steps[: self.steps.index(step) + 1]

    def _forward_through(self, x: Tensor, places: Iterable[Stage], after: str | None) -> list[Tensor]:
        """Return the feature maps of some places, in their order; those up to the step `after` are not returned."""
        found, names = {}, [place.name for place in places]
        for step in self._steps_after(after):
            x = self.get_submodule(step)(x)
            if step in names:
                found[step] = x
        return [found[name] for name in names if name in found]

    def _steps_after(self, step: str | None) -> tuple[str, ...]:
        return self.steps[len(self._steps_until(step)) :]

    def load_weights(self, state: Mapping[str, Tensor], origin: str) -> None:
        """Load a torchvision state dict; the classifier's keys are optional.

        Args:
            state: tensors by torchvision's names.
            origin: where they come from, for the message.

        Raises:
            WeightsError: keys are missing or surplus, or a tensor has another shape.
        """
        load_exactly(self, state, f"{origin} is not a state dict of {self.name}", self._classifier_keys)


def create_backbone(name: str, weights: Weights = None) -> Backbone:
    """Return a backbone with random weights, torchvision's ImageNet weights, or those of a file.

    Args:
        name: one of `STAGES`.
        weights: None for random ones, `imagenet` for torchvision's (downloaded), or a state dict with torchvision's
            names, or a file that holds one.

    Raises:
        ValueError: there is no such backbone.
        WeightsError: the file is missing, unreadable, or of another network.
    """
    backbone = Backbone(name)
    if weights == "imagenet":
        enum = torchvision.models.get_model_weights(name)
        backbone.load_weights(enum.DEFAULT.get_state_dict(progress=True, check_hash=True), "torchvision's file")
    elif isinstance(weights, Mapping):
        backbone.load_weights(weights, "what is given")
    elif weights is not None:
        backbone.load_weights(read_state_dict(Path(weights)), Path(weights).name)
    return backbone


def load_exactly(network: nn.Module, state: Mapping[str, Tensor], refusal: str, optional: Collection[str] = ()) -> None:
    """Load a state dict that holds every tensor of a network and nothing else.

    Args:
        network: changed in place.
        state: tensors by name, maybe behind a prefix that a class around the network put before every name.
        refusal: how the message begins.
        optional: names that may be there and are not loaded.

    Raises:
        WeightsError: keys are missing or surplus, or a tensor has another shape.
    """
    own, children = network.state_dict(), {name for name, _ in network.named_children()}
    bare = state
    while all("." in key for key in bare) and len(first := {key.partition(".")[0] for key in bare}) == 1:
        if first <= children:
            break
        bare = {key.partition(".")[2]: tensor for key, tensor in bare.items()}
    if own.keys() & bare.keys():
        state = bare
    # Checkpoints from before torch 0.4.1 do not count batches; nothing is computed from the count.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    surplus = [key for key in state if key not in own and key not in optional]
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    faults = {"missing": missing, "surplus": surplus, "of another shape": reshaped}
    if any(faults.values()):
        listed = "; ".join(f"{kind}: {_shorten(keys)}" for kind, keys in faults.items() if keys)
        raise WeightsError(f"{refusal}: {listed}")
    network.load_state_dict({key: state.get(key, tensor) for key, tensor in own.items()})


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a file of named tensors, without running code from it.

    A checkpoint that holds them under a key beside other things is read too.

    Raises:
        WeightsError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # torchvision's own scripts keep their options
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, from its unpickler and its zip reader
        # Not its text: that advises to run any code the file holds.
        raise WeightsError(f"{path.name} is not a readable weights file: it must hold tensors by name alone") from error
    state = _innermost(found, path.name)
    return {_OLD_DENSENET.sub(r"\1\2", name): tensor for name, tensor in state.items()}


def _innermost(found: object, file: str) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint: what it is, or the one it holds."""
    if _is_state(found):
        return found
    held = {str(name): value for name, value in found.items() if _is_state(value)} if isinstance(found, dict) else {}
    named = [name for name in STATE_NAMES if name in held] or list(held)
    if not named:
        raise WeightsError(f"{file} does not hold a state dict (tensors by name)")
    if len(named) > 1 and named[0] not in STATE_NAMES:
        raise WeightsError(f"{file} holds several state dicts: {', '.join(named)}; save the one that is meant alone")
    return held[named[0]]


def _is_state(value: object) -> TypeGuard[dict[str, Tensor]]:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def _steps(whole: nn.Module, last: str) -> tuple[str, ...]:
    """Return the paths of the modules to apply in order, up to and including the last stage's."""
    if last.startswith("features."):
        return tuple(f"features.{index}" for index in range(int(last.split(".")[1]) + 1))
    names = [name for name, _ in whole.named_children()]
    return tuple(names[: names.index(last) + 1])


def _shorten(keys: Iterable[str], most: int = 5) -> str:
    keys = list(keys)
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
