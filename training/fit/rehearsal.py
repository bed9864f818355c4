"""A few steps before the first one, which change nothing: how long the run will take."""

import time
from collections.abc import Callable
from copy import deepcopy
from itertools import islice

import torch

from training.data.batches import EpochOrder
from training.fit.learner import Learner
from training.fit.loaders import Batches
from training.fit.processes import ProcessGroup
from training.fit.state import TrainingState

STEPS = 6
"""The first starts things and is not measured."""
LONG_ENOUGH_S = 20.0
"""No further step begins after so long."""


def pace(learner: Learner, batches: Batches, order: EpochOrder, at: TrainingState, processes: ProcessGroup) -> float:
    """Return the time of a step, seconds: measured on steps that are taken back.

    Args:
        learner: ends as it began.
        batches: of the photos that are trained on.
        order: of `batches`; the next epoch has to set its beginning.
        at: where the run begins or resumes.
        processes: all of them take the same steps.
    """
    before, clock = deepcopy(learner.to_dict()), _clock_of(processes.device)
    learner.network.train()
    order.begin(at.epoch, at.batch)
    times = [clock()]
    for batch, (inputs, targets) in enumerate(islice(batches, STEPS), at.batch):
        learner.step(inputs, targets.to(processes.device), at.epoch, batch, len(order))
        times.append(clock())
        if len(times) > 2 and processes.any(times[-1] - times[0] > LONG_ENOUGH_S):
            break
    learner.optimizer.zero_grad(set_to_none=True)
    learner.load(before)
    return (times[-1] - times[1]) / (len(times) - 2)


def _clock_of(device: torch.device) -> Callable[[], float]:
    """Return a clock that waits for the device's work; seconds."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.monotonic()

    return clock
