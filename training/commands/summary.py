"""The cost of every arm: parameters, multiply-adds and activation memory, counted by running images through it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from model.network.network import build_network
from training.arms import ARMS, apply_arm
from training.checkpoint import network_config
from training.recipe import Recipe


@dataclass(frozen=True)
class Cost:
    """The cost of one arm.

    Attributes:
        arm: its name.
        parameters: all of them.
        attention_parameters: those of the attention module.
        multiply_adds: of one image's forward pass.
        activation_bytes: memory of one image's activations for the backward pass, in float32.
    """

    arm: str
    parameters: int
    attention_parameters: int
    multiply_adds: int
    activation_bytes: int


def summarise(recipe: Recipe, arms: tuple[str, ...] = tuple(ARMS), num_classes: int = 200) -> list[Cost]:
    """Return the cost of every arm under a recipe's backbone, head and input size."""
    return [cost_of(apply_arm(recipe, arm), arm, num_classes) for arm in arms]


def cost_of(recipe: Recipe, arm: str, num_classes: int) -> Cost:
    """Return the cost of one image in a recipe's network."""
    network = build_network(network_config(recipe, num_classes))
    images = torch.zeros(2, 3, recipe.data.input_size, recipe.data.input_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(images[:1])
    return Cost(
        arm,
        sum(parameter.numel() for parameter in network.parameters()),
        sum(parameter.numel() for parameter in network.attention.parameters()),
        counter.get_total_flops() // 2,
        saved_bytes(network.train(), images) // len(images),
    )


def saved_bytes(network: nn.Module, images: Tensor) -> int:
    """Return the memory that autograd keeps for the backward pass, beside the weights."""
    weights = {parameter.data_ptr() for parameter in network.parameters()}
    kept: dict[int, Tensor] = {}  # referenced, so that no address is reused

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network(images)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def summary_table(costs: list[Cost]) -> str:
    """Return Markdown."""
    lines = ["| arm | parameters | of the attention | multiply-adds | activations |", "|---|---|---|---|---|"]
    lines += [
        f"| {cost.arm} | {cost.parameters / 1e6:.2f} M | {cost.attention_parameters / 1e6:.3f} M | "
        f"{cost.multiply_adds / 1e6:.1f} M | {cost.activation_bytes / 2**20:.1f} MiB |"
        for cost in costs
    ]
    return "\n".join(lines) + "\n"
