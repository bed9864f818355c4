"""The selection of weights: measured on the held-out part after every epoch, with a fitted temperature."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision

from training.checkpoint import Selected
from training.errors import Diverged
from training.evaluation.scores import Floats, Ints, accuracy_figures, fit_temperature
from training.fit.job import Job, Parts
from training.fit.learner import Learner
from training.fit.loaders import Batches, Loaders


class Predictions(NamedTuple):
    """What a network answers for n items.

    Attributes:
        logits: (n, K).
        pooled: the vector that the head reads, (n, C).
        marks: logits of the marks, (n, A); A is 0 where the network reads none.
        labels: (n,).
    """

    logits: Floats
    pooled: Floats
    marks: Floats
    labels: Ints


def measure(job: Job, parts: Parts, learner: Learner, loaders: Loaders, epoch: int) -> Selected:
    """Return the present weights with their figures on the held-out part.

    Raises:
        Diverged: the logits are no longer numbers.
    """
    metrics, temperature = dict[str, float](), 1.0
    if parts.held:
        logits, _, _, labels = predict(learner, loaders.held)
        if not np.isfinite(logits).all():
            raise Diverged(f"epoch {epoch}: the logits of held-out images are no longer numbers")
        temperature = fit_temperature(logits, labels)
        metrics = accuracy_figures(logits, labels, temperature)
    # Copied to the CPU, because training changes the weights before these are written.
    state = {name: tensor.detach().to("cpu", copy=True) for name, tensor in learner.evaluated.state_dict().items()}
    facts = run_facts(job, len(parts.train))
    given = job.dataset
    return Selected(job.recipe, given.labels, state, epoch, temperature, metrics, facts, learner.marks, given.taxonomy)


def select(best: Selected | None, present: Selected) -> Selected:
    """Return the weights to keep: the present ones if the recipe selects the last or they are the best so far."""
    if best is None or present.recipe.run.selection == "last" or _merit(present) > _merit(best):
        return present
    return best


@torch.no_grad()
def predict(learner: Learner, loader: Batches) -> Predictions:
    """Return the answers for every item of a loader, computed in float32."""
    network = learner.evaluated.eval()
    logits, pooled, marks, labels = [], [], [], []
    for inputs, targets in loader:
        x = learner.normalise(inputs)
        maps = learner.stage_maps(network, x)
        answer = network.answer(maps)
        read = torch.zeros(len(x), 0) if network.mark_head is None else network.reading_of(answer, maps).logits
        pooled.append(answer.pooled.float())
        logits.append(answer.logits.float())
        marks.append(read.float())
        labels.append(targets)
    answers = (torch.cat(each).cpu().numpy() for each in (logits, pooled, marks, labels))
    return Predictions(*answers)


def run_facts(job: Job, num_train: int) -> dict[str, Any]:
    """Return what the manifest's provenance holds of a run, beside recipe and seed."""
    facts: dict[str, Any] = {
        "dataset": job.dataset.name,
        "num_train": num_train,
        "licence": job.dataset.licence,
        "weights": job.weights_name,
        "banner": job.dataset.banner,
        "commit": job.commit,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "tools": {"torch": str(torch.__version__), "torchvision": str(torchvision.__version__)},
    }
    return facts | ({"skipped_damaged": job.dataset.skipped} if job.dataset.skipped else {})


def _merit(selected: Selected) -> tuple[float, float]:
    return selected.metrics.get("top1", 0.0), -selected.metrics.get("nll", 0.0)
