"""One running service: settings, models, workers and load, and whether it is stopping."""

from typing import Any

from model.photo.budget import return_large_blocks
from model.photo.limits import ImageLimits
from service.inference.load import LoadTracker
from service.inference.models import Registry
from service.inference.precision import Load
from service.inference.predictor import Predictor
from service.inference.workers import Workers, num_parallel
from service.metrics import Metrics, NoMetrics
from service.settings import Settings


class Runtime:
    """Everything that answers images, without HTTP; the service has one, and so has each command.

    Args:
        settings: every option.
        metrics: a new one where absent.
        load: makes an engine of a file's bytes; another one in tests.
        once: for a command, which answers from one model and ends; see `Registry`. It keeps no metrics.

    Attributes:
        settings: as given.
        metrics: as given.
        models: the served models.
        load: requests admitted and not yet answered, and their pace.
        workers: the queues that all models share.
        limits: of photos.
        predictor: from an image to a prediction.
        draining: set when the service is stopping.

    Raises:
        ModelRejected: `device=cuda` without CUDA.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics | None = None, load: Load | None = None, *, once: bool = False
    ) -> None:
        return_large_blocks()
        self.settings = settings
        self.metrics = metrics or (NoMetrics() if once else Metrics())
        self.draining = False
        self.models = Registry(settings, self.metrics, load, once=once)
        self.load = LoadTracker(num_parallel(settings))
        self.workers = Workers(settings, self.metrics, self.load.expected_s, self.models.revive)
        self.limits = ImageLimits(
            settings.max_pixels, frozenset(settings.formats.split(",")), settings.max_decode_bytes
        )
        self.predictor = Predictor(self.workers, self.limits, self.metrics)
        self.metrics.in_flight.set_function(lambda: self.load.requests)

    async def start(self) -> None:
        """Start the workers and begin to load; returns at once."""
        await self.workers.start()
        self.models.start()

    async def stop(self) -> None:
        """Stop polling files, stop the workers, release the models."""
        self.draining = True
        await self.models.stop()
        await self.workers.stop()
        self.models.clear()

    @property
    def ready(self) -> bool:
        """Whether requests can be answered: a model is warm, no worker is down, the service is not stopping."""
        return self.models.loaded and self.workers.alive and not self.draining

    def status(self) -> dict[str, Any]:
        """Return the state of the service as plain data."""
        models = self.models.served()
        return {
            "ready": self.ready,
            "draining": self.draining,
            "models": [
                {
                    "name": served.name,
                    "version": served.version,
                    "sha256": served.sha256,
                    "precision": served.manifest.precision,
                    "provider": served.engine.provider,
                }
                for served in models
            ],
            "provider": models[0].engine.provider if models else None,
            "workers_alive": self.workers.alive,
            "requests_in_hand": self.load.requests,
            "waiting": self.workers.waiting,
        }
