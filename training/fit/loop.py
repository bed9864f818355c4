"""The training run, top to bottom: data → network → epochs → selected weights.

A run can stop after any step (Ctrl-C, a time budget, a crash) and goes on with the same command; on the CPU it then
ends with the very same weights as a run that was never stopped.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchvision
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from model.network.network import Network, build_network
from training import checkpoint
from training.checkpoint import LAST, SELECTED, Selected, network_config
from training.data.batches import (
    EpochOrder,
    ServedPhotos,
    VariedPhotos,
    evaluation_loader,
    served_photos,
    step_seed,
    training_loader,
    training_photos,
)
from training.data.datasets import Dataset, hold_out
from training.data.features import (
    AsFloats,
    FeatureCache,
    ServedFeatures,
    VariedFeatures,
    forward_inputs,
    frozen_part,
    frozen_step,
)
from training.data.transforms import Normalise, batch_mixing, training_transform
from training.errors import CheckpointError, Diverged
from training.evaluation.scores import Floats, Ints, accuracy_figures, fit_temperature
from training.export import keep_parity_images
from training.fit.journal import CURVES, Journal, Progress, Record, describe, draw_curves
from training.fit.losses import Losses, Objective
from training.fit.optim import AveragedWeights, create_optimizer, learning_rate_factor, set_learning_rate
from training.fit.world import AGREE_EVERY, StopRequest, World, joined_world
from training.recipe import Recipe

SAVE_EVERY_S = 30.0
"""A crash costs at most so much training, in seconds, and one epoch."""


@dataclass(frozen=True)
class Job:
    """What one call of `fit` is asked to do.

    Attributes:
        recipe: how to train.
        dataset: what on.
        out: folder of the run.
        weights: of the backbone at the start, as for `model.network.backbone.create_backbone`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        workers: processes that vary images; 0 does it in this one.
        cache: folder of the decoded photos.
        fresh: start anew even where the folder holds a run.
        time_budget_s: stop cleanly after so many seconds; None: no limit.
        visible: show progress.
        commit: of this project, for provenance.
    """

    recipe: Recipe
    dataset: Dataset
    out: Path
    weights: Literal["imagenet"] | Path | None
    cache: Path
    device: str = "auto"
    workers: int = 0
    fresh: bool = False
    time_budget_s: float | None = None
    visible: bool = True
    commit: str = "unknown"


@dataclass(frozen=True)
class Outcome:
    """How a call of `fit` ended.

    Attributes:
        finished: whether all epochs are done; else the next call goes on.
        epoch: epochs done.
        metrics: of the selected weights on the held-out part.
        interrupted: whether a signal stopped it, rather than the time budget.
        leads: whether this process speaks for all.
    """

    finished: bool
    epoch: int
    metrics: dict[str, float]
    interrupted: bool = False
    leads: bool = True


def fit(job: Job) -> Outcome:
    """Train, or go on training, until all epochs are done or somebody wants to stop.

    Raises:
        DatasetError: a photo is damaged or missing.
        CheckpointError: the folder holds another run, or a checkpoint cannot be written.
        Diverged: the loss is no longer a number.
    """
    with joined_world(job.device) as world, StopRequest(job.time_budget_s) as stop:
        return Training(job, world, stop).run()


class Training:
    """One run in one process.

    Args:
        job: what to do.
        world: this process among all.
        stop: asked after every step.
    """

    def __init__(self, job: Job, world: World, stop: StopRequest) -> None:
        self.job, self.recipe, self.world, self.stop = job, job.recipe, world, stop
        job.out.mkdir(parents=True, exist_ok=True)
        resumed = self._read_checkpoint()
        data = self.recipe.data
        self.train, self.held = hold_out(job.dataset.train, data.held_out, data.held_out_seed)
        self.order = EpochOrder(len(self.train), self.recipe.seed, self.recipe.optim.batch_size, world.rank, world.size)
        self._set_up_network(None if resumed else job.weights)
        self.epoch, self.batch = 0, 0
        self.totals = torch.zeros(5, device=world.device)
        self.best: Selected | None = None
        if resumed:
            self._resume(resumed)
        self._set_up_data()
        self.journal = Journal(job.out, self.epoch, write=world.leads)
        self.progress = Progress(
            self.recipe.optim.epochs * len(self.order),
            self.epoch * len(self.order) + self.batch,
            visible=job.visible and world.leads,
        )
        self._saved_at = time.monotonic()

    def run(self) -> Outcome:
        """Train until done or stopped; always leave a checkpoint that the next call goes on from."""
        if self.epoch >= self.recipe.optim.epochs:
            self.progress.close()
            return self._outcome(finished=True)
        if self.epoch or self.batch:
            self.progress.say(f"going on after epoch {self.epoch}, step {self.batch}")
        self.stop.begin()
        try:
            while self.epoch < self.recipe.optim.epochs:
                if not self._train_epoch():
                    self._save()
                    return self._outcome(finished=False)
                due = self.world.any(time.monotonic() - self._saved_at > SAVE_EVERY_S)
                if due and self.epoch < self.recipe.optim.epochs:
                    self._save()
            self._save()
        finally:
            self.progress.close()
        if self.world.leads:
            draw_curves(self.journal.records, self.job.out / CURVES)
        return self._outcome(finished=True)

    def _set_up_data(self) -> None:
        job, recipe, dataset = self.job, self.recipe, self.job.dataset
        if not self.world.leads:
            self.world.wait()  # the leading process decodes; the others then find its store
        visible = job.visible and self.world.leads
        photos = training_photos(self.train, recipe, dataset.banner, job.cache, progress=visible)
        held = served_photos(self.held, recipe.data, dataset.banner, job.cache, progress=visible)
        varied: TorchDataset[tuple[Tensor, int]] = VariedPhotos(photos, self.train, training_transform(recipe))
        served: TorchDataset[tuple[Tensor, int]] = ServedPhotos(held, self.held)
        if self.step is not None:
            cache = FeatureCache(
                self.network, self.step, recipe, job.cache, self.world.device, job.workers, progress=visible
            )
            varied = VariedFeatures(cache.varied(photos, self.train), self.train)
            if self.held:
                served = ServedFeatures(cache.served(held, self.held), self.held)
        if self.world.leads:
            keep_parity_images(job.out, self.held or self.train, recipe.data, dataset.banner)
            self.world.wait()
        pin = self.world.device.type == "cuda"
        self.loader = training_loader(varied, self.order, job.workers, pin=pin)
        self.held_loader = evaluation_loader(served, recipe.optim.batch_size, pin=pin)
        self.mix = batch_mixing(recipe.augment, dataset.num_classes)

    def _set_up_network(self, weights: Literal["imagenet"] | Path | None) -> None:
        recipe, device = self.recipe, self.world.device
        on_cuda = device.type == "cuda"
        if on_cuda:
            torch.backends.cudnn.benchmark = True
            torch.set_float32_matmul_precision("high")
        torch.manual_seed(recipe.seed)
        channels_last = recipe.run.channels_last
        self.network: Network = build_network(network_config(recipe, self.job.dataset.num_classes), weights)
        self.network.to(device)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        step = frozen_step(self.network, recipe.optim)
        self.frozen = frozen_part(self.network, step)
        for module in self.frozen:
            module.requires_grad_(False)
        self.step = step if recipe.data.cached_views else None
        self.objective: torch.nn.Module = Objective(self.network, recipe, self.world.size, self.step)
        if self.world.size > 1:
            self.objective = DistributedDataParallel(self.objective, device_ids=[device.index] if on_cuda else None)
        self.optimizer = create_optimizer(self.network, recipe.optim)
        self.average = AveragedWeights(self.network, recipe.run.ema_decay) if recipe.run.ema_decay else None
        self.amp = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.run.amp) if on_cuda else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp is torch.float16)
        self.normalise: Callable[[Tensor], Tensor] = Normalise(recipe.data.mean, recipe.data.std, device, channels_last)
        if self.step is not None:
            self.normalise = AsFloats(device)

    def _train_epoch(self) -> bool:
        """Train one epoch, or what is left of it; return whether it was finished."""
        started, first = time.monotonic(), self.batch
        self.network.train()
        for module in self.frozen:
            module.eval()
        self.order.begin(self.epoch, first)
        for images, targets in self.loader:
            self._step(images, targets)
            self.batch += 1
            if self.progress.step():
                self._show()
            if self._may_pause() and self.batch < len(self.order):
                return False
        self._finish_epoch(time.monotonic() - started, self.batch - first)
        return True

    def _step(self, images: Tensor, targets: Tensor) -> None:
        """One forward and backward pass, and an optimiser step where a group of `accumulate` passes ends."""
        recipe = self.recipe.optim
        torch.manual_seed(step_seed(self.recipe.seed, self.epoch, self.batch))
        images = self.normalise(images)
        targets = targets.to(self.world.device, non_blocking=True)
        shares = targets
        if self.mix is not None and torch.rand(()) < self.recipe.augment.mix_probability:
            images, shares = self.mix(images, targets)
        group_begin = self.batch - self.batch % recipe.accumulate
        group = min(recipe.accumulate, len(self.order) - group_begin)
        ends = self.batch == group_begin + group - 1
        with nullcontext() if ends else self._without_sync():
            with torch.autocast(self.world.device.type, self.amp, enabled=self.amp is not None):
                losses: Losses = self.objective(images, shares)
            self.scaler.scale(losses.total / group).backward()  # type: ignore[no-untyped-call]  # torch's
        if ends:
            set_learning_rate(self.optimizer, learning_rate_factor(recipe, self._position()))
            self._update()
        self._count(losses, targets)

    def _update(self) -> None:
        if self.recipe.optim.clip_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.optim.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.network)

    def _count(self, losses: Losses, targets: Tensor) -> None:
        """Add to the epoch's sums on the device: reading them here would make it wait at every step."""
        count = len(targets)
        correct = (losses.logits.argmax(1) == targets).sum()
        sums = torch.stack([losses.total.detach(), losses.cross_entropy, losses.guidance]).float() * count
        self.totals += torch.cat([sums, correct[None].float(), torch.full_like(correct, count)[None].float()])
        if self.world.device.type == "cpu":
            self._refuse_nan(float(losses.total.detach()))

    def _finish_epoch(self, seconds: float, batches: int) -> None:
        means = self._means()
        self._refuse_nan(means["loss"])
        self.epoch, self.batch = self.epoch + 1, 0
        self.totals.zero_()
        factor = learning_rate_factor(self.recipe.optim, self.epoch - 0.5)
        record: Record = {
            "epoch": self.epoch,
            **means,
            "lr_backbone": factor * self.recipe.optim.lr_backbone,
            "lr_new": factor * self.recipe.optim.lr_new,
            "seconds": round(seconds, 3),
            "images_per_s": round(batches * self.recipe.optim.batch_size / max(seconds, 1e-9), 1),
        }
        selected = self._measure() if self.world.leads else None
        if selected is not None:
            record |= {f"held_out_{name}": value for name, value in selected.metrics.items() if name != "images"}
            self._consider(selected)
            self.progress.say(describe(record, self.recipe.optim.epochs))
        self.world.wait()
        self.journal.add(record)

    def _measure(self) -> Selected:
        """Return the present weights with what they reach on the held-out part."""
        network = self.average.network if self.average is not None else self.network
        metrics: dict[str, float] = {}
        temperature = 1.0
        if self.held:
            logits, labels = predict(network, self.held_loader, self.normalise, self.step)
            if not np.isfinite(logits).all():
                raise Diverged(f"epoch {self.epoch}: the logits of held-out images are no longer numbers")
            temperature = fit_temperature(logits, labels)
            metrics = accuracy_figures(logits, labels, temperature)
        # Copied to the CPU: the weights go on changing while these wait to be written.
        state = {name: tensor.detach().to("cpu", copy=True) for name, tensor in network.state_dict().items()}
        return Selected(
            self.recipe, self.job.dataset.labels, state, self.epoch, temperature, metrics, run_facts(self.job, self)
        )

    def _consider(self, selected: Selected) -> None:
        """Keep these weights where they are the last, or the best so far on the held-out part."""
        if self.best is None or self.recipe.run.selection == "last" or _merit(selected) > _merit(self.best):
            self.best = selected

    def _save(self) -> None:
        """Write where the run stands; a loss that is no number never reaches the disk."""
        self._refuse_nan(self._means()["loss"] if self.batch else 0.0)
        self._saved_at = time.monotonic()
        if not self.world.leads:
            self.world.wait()
            return
        values = {
            "recipe": self.recipe.to_dict(),
            "labels": list(self.job.dataset.labels),
            "num_train": len(self.train),
            "state_dict": self.network.state_dict(),
            "average": self.average.to_dict() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "batch": self.batch,
            "totals": self.totals,
            "best_epoch": self.best.epoch if self.best is not None else 0,
        }
        if self.best is not None:
            checkpoint.write(self.job.out / SELECTED, self.best.to_dict())
        checkpoint.write(self.job.out / LAST, values)
        self.world.wait()

    def _read_checkpoint(self) -> dict[str, Any] | None:
        path = self.job.out / LAST
        if self.job.fresh or not path.is_file():
            self.world.wait()
            return None
        values = checkpoint.read(path)
        self.world.wait()
        # Read as a recipe of today first: an older one lacks the keys that came later.
        differences = _differences(Recipe.from_dict(values["recipe"]).to_dict(), self.recipe.to_dict())
        if values["labels"] != list(self.job.dataset.labels):
            differences.append("other classes")
        if differences:
            raise CheckpointError(
                f"{self.job.out} holds another run ({'; '.join(differences[:4])}): take another --out, or --fresh"
            )
        return values

    def _resume(self, values: dict[str, Any]) -> None:
        if values["num_train"] != len(self.train):
            raise CheckpointError(
                f"{self.job.out} was trained on {values['num_train']} images; now there are {len(self.train)}"
            )
        self.network.load_state_dict(values["state_dict"])
        self.optimizer.load_state_dict(values["optimizer"])
        self.scaler.load_state_dict(values["scaler"])
        if self.average is not None:
            self.average.load(values["average"])
        self.epoch, self.batch = values["epoch"], values["batch"]
        self.totals = values["totals"].to(self.world.device)
        if values["best_epoch"]:
            self.best = checkpoint.load_selected(self.job.out)

    def _may_pause(self) -> bool:
        """Whether to stop here: only between optimiser steps, and only if every process agrees."""
        if self.batch % self.recipe.optim.accumulate:
            return False
        if self.world.size > 1 and self.batch % (AGREE_EVERY * self.recipe.optim.accumulate):
            return False
        return self.world.any(self.stop.wanted())

    def _without_sync(self) -> AbstractContextManager[None]:
        if isinstance(self.objective, DistributedDataParallel):
            context: AbstractContextManager[None] = self.objective.no_sync()
            return context
        return nullcontext()

    def _position(self) -> float:
        return self.epoch + self.batch / len(self.order)

    def _means(self) -> dict[str, float]:
        loss, cross_entropy, guidance, correct, count = self.totals.tolist()
        count = max(count, 1.0)
        names = ("loss", "cross_entropy", "guidance", "train_top1")
        return dict(zip(names, (loss / count, cross_entropy / count, guidance / count, correct / count), strict=True))

    def _show(self) -> None:
        means = self._means()
        self._refuse_nan(means["loss"])
        self.progress.show(self.epoch, self.recipe.optim.epochs, means["loss"], means["train_top1"])

    def _refuse_nan(self, loss: float) -> None:
        if not math.isfinite(loss):
            rates = [f"{group['lr']:.2g}" for group in self.optimizer.param_groups]
            raise Diverged(
                f"the loss is {loss} in epoch {self.epoch + 1}, step {self.batch + 1} (learning rates "
                f"{', '.join(rates)}); {self.job.out} keeps the last good checkpoint. A lower learning rate, a longer "
                f"warm-up or optim.clip_norm may help"
            )

    def _outcome(self, *, finished: bool) -> Outcome:
        metrics = self.best.metrics if self.best is not None else {}
        interrupted = self.stop.signalled and not finished
        return Outcome(finished, self.epoch, metrics, interrupted, self.world.leads)


@torch.no_grad()
def predict(
    network: Network,
    loader: DataLoader[tuple[Tensor, int]],
    normalise: Callable[[Tensor], Tensor],
    step: str | None = None,
) -> tuple[Floats, Ints]:
    """Return logits (n, K) and labels (n,) of every image of a loader, computed in float32."""
    network.eval()
    logits, labels = [], []
    for images, targets in loader:
        attended = forward_inputs(network, normalise(images), step)
        logits.append(network.forward_head(attended.feature_map).float())
        labels.append(targets)
    return torch.cat(logits).cpu().numpy(), torch.cat(labels).numpy()


def run_facts(job: Job, training: Training) -> dict[str, Any]:
    """Return what a manifest's provenance says of a run, beside recipe and seed."""
    return {
        "dataset": job.dataset.name,
        "num_train": len(training.train),
        "licence": job.dataset.licence,
        "weights": job.weights if isinstance(job.weights, str) else job.weights.name if job.weights else "random",
        "banner": job.dataset.banner,
        "commit": job.commit,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "tools": {"torch": str(torch.__version__), "torchvision": str(torchvision.__version__)},
    }


def _merit(selected: Selected) -> tuple[float, float]:
    return selected.metrics.get("top1", 0.0), -selected.metrics.get("nll", 0.0)


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, now = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            found += _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            found.append(f"{prefix}{key} was {before!r}, now {now!r}")
    return found
