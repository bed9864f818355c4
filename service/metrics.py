"""The metrics that the service reports to Prometheus: every name, unit and label.

Each app has its own registry, so that several apps in one process do not share numbers. Labels are
bounded: routes are templates, methods and codes come from short lists, and classes stop at `MAX_CLASS_SERIES`.

Prometheus' client is imported where metrics are kept: with its HTTP server it takes a command as long as asyncio does.
"""

from collections.abc import Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

MAX_CLASS_SERIES = 1000
"""Most classes counted by name, over all models; later ones are counted together as `other`."""

STAGES = ("decode", "queue", "infer", "render")
Timings = dict[str, float]
"""Time of one image, seconds by one of `STAGES`: the same in the histograms, in `Server-Timing` and in the log.
`queue` is the wait for the model, `infer` the run of the whole batch, `render` drawing without its wait."""


class Interval(NamedTuple):
    """When one stage of one image was: its begin on `time.monotonic()`'s clock, and its time, seconds."""

    stage: str
    started: float
    seconds: float


REFUSALS = ("overloaded", "too_large", "draining", "not_ready", "deadline_exceeded", "slow_request")
RELOAD_OUTCOMES = ("ok", "unchanged", "failed")
_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH"})
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)


class GpuMemoryCollector:
    """Memory of each GPU by NVML; nothing where there is no NVML, no driver or no GPU."""

    def collect(self) -> Iterator[Any]:
        """Yield used and total memory of every GPU as families of gauges, or nothing."""
        from prometheus_client.core import GaugeMetricFamily

        if not (readings := _gpu_memory()):
            return
        used = GaugeMetricFamily(
            "fieldmark_gpu_memory_used_bytes", "Memory in use on the GPU, all processes.", labels=["gpu"]
        )
        size = GaugeMetricFamily("fieldmark_gpu_memory_size_bytes", "Memory that the GPU has.", labels=["gpu"])
        for index, (used_bytes, size_bytes) in enumerate(readings):
            used.add_metric([str(index)], used_bytes)
            size.add_metric([str(index)], size_bytes)
        yield used
        yield size


def _gpu_memory() -> list[tuple[int, int]]:
    """Return (used, total) bytes of each GPU; empty where NVML is not available."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()  # NVML counts its users: repeated calls are cheap
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        memories = [pynvml.nvmlDeviceGetMemoryInfo(handle) for handle in handles]
        return [(int(memory.used), int(memory.total)) for memory in memories]
    except pynvml.NVMLError:
        return []


class Metrics:
    """All instruments of one service.

    Attributes:
        registry: that holds them.
        in_flight: requests admitted and not yet answered; read at every scrape by the function that its owner sets.
        queue_depth: images waiting for a run; likewise.
        batch_images: sizes of the runs.
        model_info: one series a loaded model.
        reloads: by one of `RELOAD_OUTCOMES`.
        missing_files: loaded models whose file is gone.
    """

    def __init__(self) -> None:
        from prometheus_client import (
            CollectorRegistry,
            Counter,
            Gauge,
            Histogram,
            PlatformCollector,
            ProcessCollector,
            disable_created_metrics,
        )

        # The `_created` series double the count and no rule or dashboard reads them.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(GpuMemoryCollector())
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self._requests = counter("fieldmark_http_requests_total", "Requests answered.", ["route", "method", "code"])
        self._request_seconds = histogram(
            "fieldmark_http_request_duration_seconds",
            "Time from the request's header to the end of the answer.",
            ["route"],
            buckets=_SECONDS,
        )
        self.in_flight = gauge("fieldmark_requests_in_flight", "Requests admitted, not yet answered.")
        self._refused = counter(
            "fieldmark_requests_refused_total", "Requests refused for load, size or time, by problem code.", ["reason"]
        )
        self._stage_seconds = histogram(
            "fieldmark_stage_duration_seconds",
            "Time of one stage of one image: decode, queue, infer, render.",
            ["stage"],
            buckets=_SECONDS,
        )
        self.batch_images = histogram("fieldmark_batch_images", "Images in one run.", buckets=_IMAGES)
        self.queue_depth = gauge("fieldmark_queue_depth_images", "Images waiting for a run.")
        self._decoded = counter("fieldmark_images_decoded_total", "Images decoded.", ["format"])
        self._confidence = histogram(
            "fieldmark_prediction_confidence_ratio",
            "Calibrated probability of the first class of each image.",
            buckets=_RATIOS,
        )
        self._predicted = counter("fieldmark_predictions_total", "Images by their first class.", ["label"])
        self._novelty = histogram(
            "fieldmark_novelty_ratio",
            "Share of held-out photos that are less novel than the image; evenly spread for photos like those.",
            ["model"],
            buckets=_RATIOS,
        )
        self._unknown = counter(
            "fieldmark_unknown_images_total", "Images that are like none of the classes.", ["model"]
        )
        self._feedback = counter(
            "fieldmark_feedback_total",
            "What users say of answers: right, wrong, none of the classes; known: as the image was answered.",
            ["model", "verdict", "known"],
        )
        self._feedback_classes = counter(
            "fieldmark_feedback_classes_total",
            "What users say of answers, by the class answered.",
            ["label", "verdict"],
        )
        self.model_info = gauge(
            "fieldmark_model_info",
            "Models loaded, with the provider that runs them; always 1.",
            ["name", "version", "sha256", "provider", "precision"],
        )
        self.reloads = counter("fieldmark_model_reloads_total", "Reloads of models and of their priors.", ["outcome"])
        self.missing_files = gauge("fieldmark_model_files_missing", "Models loaded whose file is gone.")
        build = gauge("fieldmark_build_info", "Version of the service; always 1.", ["version"])
        build.labels(service_version()).set(1)
        self._known_classes: set[str] = set()
        # Children that exist from the start are scraped as 0, so that `increase()` sees their first event.
        for stage in STAGES:
            self._stage_seconds.labels(stage)
        for reason in REFUSALS:
            self._refused.labels(reason)
        for outcome in RELOAD_OUTCOMES:
            self.reloads.labels(outcome)

    def stage(self, name: str, seconds: float) -> None:
        """Observe one stage of one image; `name` is one of `STAGES`."""
        self._stage_seconds.labels(name).observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a refused request, by its problem code, one of `REFUSALS`."""
        self._refused.labels(reason).inc()

    def decoded(self, image_format: str) -> None:
        """Count one decoded image."""
        self._decoded.labels(image_format.lower()).inc()

    def request(self, route: str, method: str, code: int, seconds: float) -> None:
        """Count an answered request and observe its time; `route` is the template, never the address."""
        self._requests.labels(route, method if method in _METHODS else "other", code).inc()
        self._request_seconds.labels(route).observe(seconds)

    def confidence(self, probability: float) -> None:
        """Observe the probability of the first class."""
        self._confidence.observe(probability)

    def predicted(self, label: str) -> None:
        """Count the first class of an image; beyond `MAX_CLASS_SERIES` classes as `other`."""
        self._predicted.labels(self._bounded(label)).inc()

    def serves_novelty(self, model: str) -> None:
        """Make the series of a model that has novelty; by its name alone, so that a new version goes on with them."""
        self._novelty.labels(model)
        self._unknown.labels(model)

    def novelty(self, model: str, known: bool, quantile: float) -> None:
        """Observe how novel an image is to a model, as the share of held-out photos that are less so."""
        self._novelty.labels(model).observe(quantile)
        if not known:
            self._unknown.labels(model).inc()

    def feedback(self, model: str, verdict: str, label: str, known: bool | None) -> None:
        """Count what a user says of an answer: `right`, `wrong` or `none`; label and `known` are as answered."""
        self._feedback_classes.labels(self._bounded(label), verdict).inc()
        self._feedback.labels(model, verdict, "" if known is None else str(known).lower()).inc()

    def _bounded(self, label: str) -> str:
        if label not in self._known_classes and len(self._known_classes) >= MAX_CLASS_SERIES:
            label = "other"
        self._known_classes.add(label)
        return label

    def exposition(self, accept: str | None) -> tuple[bytes, str]:
        """Return the page for a scrape and its media type, in the format of the `Accept` header."""
        from prometheus_client.exposition import choose_encoder

        encode, media_type = choose_encoder(accept or "")
        return encode(self.registry), media_type


class NoMetrics(Metrics):
    """Keeps nothing: for commands, which nobody scrapes."""

    def __init__(self) -> None:
        self._nothing = _Nothing()

    def __getattr__(self, _: str) -> Any:
        """Return an instrument that observes nothing, in place of any."""
        return self._nothing


class _Nothing:
    """Takes every call and attribute of an instrument."""

    def __getattr__(self, _: str) -> "_Nothing":
        return self

    def __call__(self, *_: Any, **__: Any) -> "_Nothing":
        return self


def service_version() -> str:
    """Return the version of the installed distribution."""
    try:
        return version("fieldmark")
    except PackageNotFoundError:  # run from a bare checkout
        return "unknown"
