"""The optimiser: parameter groups, the learning rate as a function of progress, and averaged weights."""

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from model.network.network import Network
from training.recipe import OptimRecipe

Tensors = tuple[Tensor, ...] | list[Tensor]


def create_optimizer(network: Network, recipe: OptimRecipe) -> torch.optim.Optimizer:
    """Return the optimiser, with groups by part of the network and by whether they decay.

    Each group carries its peak learning rate as `peak_lr`.
    """
    of_marks = recipe.lr_marks or recipe.lr_new
    parts = (
        ("", recipe.lr_new),
        ("backbone.", recipe.lr_backbone),
        ("mark_head.", of_marks),
        ("part_votes.", of_marks),
    )
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            # Decay of norm layers and biases only drags scales towards 0.
            decays = recipe.decay_all or parameter.ndim > 1
            part = max(index for index, (prefix, _) in enumerate(parts) if name.startswith(prefix))
            groups.setdefault((part, decays), []).append(parameter)
    described = [
        {
            "params": parameters,
            "peak_lr": parts[part][1],
            "lr": 0.0,
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (part, decays), parameters in sorted(groups.items())
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


def averaged_model(network: Network, decay: float) -> AveragedModel:
    """Return an exponential moving average of a network's weights and running statistics.

    Args:
        network: to follow, by `update_parameters` after every step.
        decay: reached after many steps; it grows with them, so that the random start is forgotten early.
    """

    @torch.no_grad()
    def update(averages: Tensors, present: Tensors, _: Tensor | int) -> None:
        if averages[0].is_floating_point():
            count = int(average.n_averaged)  # on the CPU; the argument is on the device, and reading it would block
            torch._foreach_lerp_(averages, present, 1 - min(decay, count / (9 + count)))
        else:  # counters of batches
            torch._foreach_copy_(averages, present)

    average = AveragedModel(network, multi_avg_fn=update, use_buffers=True).requires_grad_(False).eval()
    average.n_averaged.fill_(1)  # the starting weights count: at 0 the first update would replace them
    return average
