"""Who does the work: one pool of threads for the CPU, one worker for the GPU, both fed fairly and bounded.

Decoding, preparing, rendering and, without a GPU, the model itself share one pool of as many threads as cores:
every piece of work then has a core to itself, `/explain` and `/classify` take turns, and deadlines count for all
of it. The event loop's thread does none of this.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.inference.batcher import DynamicBatcher
from service.inference.cpus import usable_cores
from service.inference.engine import Engine, Outputs, wants_cuda
from service.metrics import Metrics
from service.settings import Settings

Job = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class GpuWork:
    """One prepared image for a batch.

    Attributes:
        engine: that runs it.
        image: RGB, uint8, (S, S, 3).
        target: codes of the classes to explain, (1, T).
        versus: codes of the classes to contrast them with, (1, T).
        layer: index into the manifest's layers.
    """

    engine: Engine
    image: npt.NDArray[np.uint8]
    target: npt.NDArray[np.int64]
    versus: npt.NDArray[np.int64]
    layer: int

    @property
    def key(self) -> tuple[int, int, int]:
        """What work must share to run in one batch: model, layer and T."""
        return id(self.engine), self.layer, self.target.shape[1]


class Workers:
    """The queues of this process.

    Args:
        settings: how many threads, how large a batch.
        metrics: told of batches, and asked for the queues' depth at every scrape.
        revive: awaited before the GPU's worker is started again.

    Attributes:
        cpu: runs jobs, one a thread.
        gpu: runs batches of `GpuWork`; idle where no model runs on a GPU.
        parallel: pieces of work that the device takes at the same time.
    """

    def __init__(self, settings: Settings, metrics: Metrics, revive: Callable[[], Awaitable[None]]) -> None:
        on_gpu = wants_cuda(settings)
        threads = (settings.decode_threads if on_gpu else settings.cpu_runs) or usable_cores()
        room = settings.max_requests * settings.max_files
        self.cpu: DynamicBatcher[Job, Any] = DynamicBatcher(
            _run_jobs, name="cpu", concurrency=threads, ahead=(threads + 3) // 4, max_waiting=room
        )
        self.gpu: DynamicBatcher[GpuWork, Outputs] = DynamicBatcher(
            run_batch,
            name="gpu",
            max_batch_size=settings.max_batch_size,
            max_waiting=room,
            max_wait_s=settings.max_wait_ms / 1000,
            on_batch=metrics.batch,
            revive=revive,
        )
        self.parallel = settings.max_batch_size if on_gpu else threads
        metrics.queue_depth(lambda: self.waiting)

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
        """Stop the threads; what still waits fails as not ready."""
        await self.gpu.stop()
        await self.cpu.stop()


def _run_jobs(jobs: Sequence[Job]) -> list[Any]:
    return [job() for job in jobs]


def run_batch(works: Sequence[GpuWork]) -> list[Outputs]:
    """Run work with equal keys as one batch."""
    first = works[0]
    target = np.concatenate([work.target for work in works])
    versus = np.concatenate([work.versus for work in works])
    outputs = first.engine.run([work.image for work in works], target, versus, first.layer)
    return [outputs.image(index) for index in range(len(works))]
