"""The queues that do the work: a pool of threads for the CPU, one worker for the GPU, both fair and bounded.

Decoding, preparing, rendering and, without a GPU, the model itself share one pool of as many threads as cores:
every piece of work then has its own core, `/explain` and `/classify` take turns, and deadlines apply to all of it.
The event loop's thread does none of this.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.inference.batcher import DynamicBatcher, call_each
from service.inference.cpus import usable_cores
from service.inference.engine import Engine, Outputs, Question
from service.inference.sessions import wants_cuda
from service.metrics import Metrics
from service.settings import Settings

Job = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class GpuWork:
    """One prepared image for a batch.

    Attributes:
        engine: that runs it.
        image: RGB, uint8, (S, S, 3).
        question: about it.
    """

    engine: Engine
    image: npt.NDArray[np.uint8]
    question: Question

    @property
    def key(self) -> tuple[int, ...]:
        """Work with equal keys may share a batch: model, layer, T and M."""
        return id(self.engine), *self.question.kind


class Workers:
    """The queues of this process.

    Args:
        settings: how many threads, how large a batch.
        metrics: for batches, and for the queues' depth.
        expected_wait_s: returns how long new work would wait, seconds; called when a queue is full.
        revive: awaited before the worker of the GPU is started again.

    Attributes:
        cpu: runs jobs, one a thread.
        gpu: runs batches of `GpuWork`; idle where no model runs on a GPU.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        expected_wait_s: Callable[[], float],
        revive: Callable[[], Awaitable[None]],
    ) -> None:
        threads = num_threads(settings)
        room = settings.max_requests * settings.max_files
        self.cpu: DynamicBatcher[Job, Any] = DynamicBatcher(
            call_each,
            name="cpu",
            concurrency=threads,
            ahead=(threads + 3) // 4,
            max_waiting=room,
            expected_wait_s=expected_wait_s,
        )
        self.gpu: DynamicBatcher[GpuWork, Outputs] = DynamicBatcher(
            run_batch,
            name="gpu",
            max_batch_size=settings.max_batch_size,
            max_waiting=room,
            max_wait_s=settings.max_wait_ms / 1000,
            on_batch=metrics.batch_images.observe,
            expected_wait_s=expected_wait_s,
            revive=revive,
        )
        metrics.queue_depth.set_function(lambda: self.waiting)

    @property
    def waiting(self) -> int:
        """Pieces of work in the queues."""
        return self.cpu.waiting + self.gpu.waiting

    @property
    def alive(self) -> bool:
        """Whether no worker is down."""
        return self.cpu.alive and self.gpu.alive

    async def start(self) -> None:
        """Start the threads."""
        await self.cpu.start()
        await self.gpu.start()

    async def stop(self) -> None:
        """Stop the threads; unanswered work fails as not ready."""
        await self.gpu.stop()
        await self.cpu.stop()


def num_threads(settings: Settings) -> int:
    """Return how many threads decode and render, and without a GPU also run models."""
    return (settings.decode_threads if wants_cuda(settings) else settings.cpu_runs) or usable_cores()


def num_parallel(settings: Settings) -> int:
    """Return how many pieces of work the device takes at the same time."""
    return settings.max_batch_size if wants_cuda(settings) else num_threads(settings)


def run_batch(works: Sequence[GpuWork]) -> list[Outputs]:
    """Run work with equal keys as one batch."""
    question = Question.batch([work.question for work in works])
    outputs = works[0].engine.run([work.image for work in works], question)
    return [outputs.image(index) for index in range(len(works))]
