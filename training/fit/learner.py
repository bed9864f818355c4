"""The network of a run with its loss and optimiser: one call is one training step."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from model.network.backbone import Weights
from model.network.network import Network, build_network
from training.checkpoint import network_config
from training.data.batches import step_seed
from training.data.features import StageMaps, as_floats, cached_step, frozen_step
from training.data.marks import Marks
from training.data.transforms import Normalise, batch_mixing
from training.fit.losses.objective import Losses, Objective
from training.fit.optim import averaged_model, create_optimizer, learning_rate_factor, set_learning_rate
from training.fit.processes import ProcessGroup
from training.recipe import Recipe


class Learner:
    """A network with its loss, optimiser, gradient scaler and averaged weights.

    Args:
        recipe: how to train.
        num_classes: K.
        weights: of the backbone at the start, as for `create_backbone`; None where a checkpoint follows.
        processes: the group this process belongs to.
        marks: that the network reads; None: none.

    Attributes:
        recipe: as given.
        network: being trained.
        marks: that it reads; None: none.
        after: step of the backbone whose features are its input; None where images are.
        stage_maps: makes the maps of the backbone's stages of a normalised batch.
        normalise: converts a batch of a loader to the network's input, on the device.
        optimizer: of its weights.

    Raises:
        RecipeError: the backbone has no stage or step that the recipe freezes.
        WeightsError: the weights are missing or of another network.
    """

    def __init__(
        self,
        recipe: Recipe,
        num_classes: int,
        weights: Weights,
        processes: ProcessGroup,
        marks: Marks | None = None,
    ) -> None:
        self.recipe, self._device, self._alone = recipe, processes.device, processes.size == 1
        if processes.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")
        torch.manual_seed(recipe.seed)
        marks = marks if recipe.marks.weight else None
        self.marks = marks
        self.network: Network = build_network(network_config(recipe, num_classes, marks), weights)
        self.network.to(processes.device)
        if recipe.run.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.network.backbone.freeze(frozen_step(self.network, recipe.optim), norms=recipe.optim.freeze_norms)
        self.after = cached_step(self.network, recipe)
        sizes = (recipe.data.input_size, recipe.augment.size or recipe.data.input_size)
        self.stage_maps = StageMaps(self.network, self.after, sizes)
        self._objective = _on_all(Objective(self.network, recipe, processes.size, self.stage_maps, marks), processes)
        self.optimizer = create_optimizer(self.network, recipe.optim)
        self._average = averaged_model(self.network, recipe.run.ema_decay) if recipe.run.ema_decay else None
        self._amp = _amp(recipe.run.amp, processes.device)
        self._scaler = torch.amp.GradScaler(processes.device.type, enabled=self._amp is torch.float16)
        self.normalise: Callable[[Tensor], Tensor] = partial(as_floats, device=processes.device)
        if self.after is None:
            self.normalise = Normalise(recipe.data.mean, recipe.data.std, processes.device, recipe.run.channels_last)
        self._mix = batch_mixing(recipe.augment, num_classes)

    @property
    def evaluated(self) -> Network:
        """The network that is evaluated and exported: the averaged one where the recipe averages."""
        return self.network if self._average is None else cast(Network, self._average.module)

    def step(self, inputs: Tensor, targets: Tensor, epoch: int, batch: int, batches: int) -> Losses:
        """Take one forward and backward pass, and an optimiser step at the end of each group of `accumulate` passes.

        Args:
            inputs: of a loader: images (n, 3, S, S) uint8, or features.
            targets: classes, (n,), on the device.
            epoch: epochs done.
            batch: of this epoch, from 0.
            batches: of every epoch.
        """
        recipe = self.recipe.optim
        torch.manual_seed(step_seed(self.recipe.seed, epoch, batch))
        images, shares = self.normalise(inputs), targets
        if self._mix is not None and torch.rand(()) < self.recipe.augment.mix_probability:
            images, shares = self._mix(images, shares)
        begin = batch - batch % recipe.accumulate
        group = min(recipe.accumulate, batches - begin)
        ends = batch == begin + group - 1
        with nullcontext() if ends or self._alone else cast(DistributedDataParallel, self._objective).no_sync():
            with torch.autocast(self._device.type, self._amp, enabled=self._amp is not None):
                progress = (epoch + batch / batches) / recipe.epochs
                losses: Losses = self._objective(images, shares, progress)
            self._scaler.scale(losses.total / group).backward()  # type: ignore[no-untyped-call]  # torch's
        if ends:
            set_learning_rate(self.optimizer, learning_rate_factor(recipe, epoch + batch / batches))
            self._update()
        return losses

    def set_head(self, weight: Tensor, bias: Tensor) -> None:
        """Set the last layer's weight, (K, C), and bias, (K,), of the network and of its average."""
        for network in {self.network, self.evaluated}:
            linear = cast(torch.nn.Linear, network.head[-1])
            with torch.no_grad():
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)

    def to_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it."""
        average = self._average
        return {
            "state_dict": self.network.state_dict(),
            "average": average and {"steps": int(average.n_averaged) - 1, "state": average.module.state_dict()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load(self, values: Mapping[str, Any]) -> None:
        """Restore what `to_dict` returned."""
        self.network.load_state_dict(values["state_dict"])
        self.optimizer.load_state_dict(values["optimizer"])
        self._scaler.load_state_dict(values["scaler"])
        if self._average is not None:
            self._average.n_averaged.fill_(values["average"]["steps"] + 1)
            self._average.module.load_state_dict(values["average"]["state"])

    def _update(self) -> None:
        if self.recipe.optim.clip_norm:
            self._scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.optim.clip_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update_parameters(self.network)


def _on_all(objective: torch.nn.Module, processes: ProcessGroup) -> torch.nn.Module:
    """Average the gradients over several processes."""
    if processes.size == 1:
        return objective
    return DistributedDataParallel(
        objective, device_ids=[processes.device.index] if processes.device.type == "cuda" else None
    )


def _amp(name: str, device: torch.device) -> torch.dtype | None:
    """Return the float type of mixed precision on CUDA; None for float32, as always on the CPU."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name) if device.type == "cuda" else None
