"""How the weights move: parameter groups, the learning rate as a function of progress, and averaged weights."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from model.network.network import Network
from training.recipe import OptimRecipe


def create_optimizer(network: Network, recipe: OptimRecipe) -> torch.optim.Optimizer:
    """Return the optimiser, with groups by layer (backbone, new) and by whether they decay.

    Each group carries its peak learning rate as `peak_lr`.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            # Decay on norm layers and biases only drags scales towards 0.
            decays = recipe.decay_all or parameter.ndim > 1
            groups.setdefault((name.startswith("backbone."), decays), []).append(parameter)
    described = [
        {
            "params": parameters,
            "peak_lr": recipe.lr_backbone if pretrained else recipe.lr_new,
            "lr": 0.0,
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (pretrained, decays), parameters in sorted(groups.items())
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(described)
    return torch.optim.SGD(described, lr=0.0, momentum=recipe.momentum)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group to its peak rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def learning_rate_factor(recipe: OptimRecipe, position: float) -> float:
    """Return the share of the peak learning rate at a position in epochs, fractions included.

    A linear rise over the warm-up, then half a cosine to 0 over the rest.
    """
    if position < recipe.warmup_epochs:
        return (position + 1e-3) / (recipe.warmup_epochs + 1e-3)
    if recipe.schedule == "constant":
        return 1.0
    if recipe.schedule == "cosine_epoch":
        position = math.floor(position)
    rest = max(recipe.epochs - recipe.warmup_epochs, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * min(max(position - recipe.warmup_epochs, 0) / rest, 1.0)))


class AveragedWeights:
    """An exponential moving average of a network's weights and running statistics.

    The decay grows with the number of steps, so that the random start is forgotten early.

    Args:
        network: to follow.
        decay: reached after many steps.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self._decay = decay
        self.steps = 0
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.state: dict[str, Tensor] = self.network.state_dict()  # the same tensors, by name

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's present weights."""
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        present = network.state_dict()
        floats = [name for name, tensor in self.state.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.state[name] for name in floats], [present[name] for name in floats], 1 - decay)
        for name in self.state.keys() - set(floats):
            self.state[name].copy_(present[name])

    def to_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"steps": self.steps, "state": self.state}

    def load(self, values: dict[str, Any]) -> None:
        """Take back what `to_dict` gave."""
        self.steps = values["steps"]
        state: dict[str, Tensor] = values["state"]
        for name, tensor in self.state.items():
            tensor.copy_(state[name])
