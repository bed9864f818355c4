"""What the service tells Prometheus; every name, unit and label of it is in this file.

One registry an app, so that tests and second apps in one process never meet each other's numbers. Labels are
bounded: routes are templates, methods and codes come from short lists, and classes stop at `MAX_CLASS_SERIES`.
"""

from collections import deque
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

MAX_LATE = 512
"""Most values that wait to be told to their instruments."""
MAX_CLASS_SERIES = 1000
"""Most classes counted by name, over all models; later ones are counted together as `other`."""

STAGES = ("decode", "queue", "infer", "render")
Timings = dict[str, float]
"""Where the time of one image went, seconds by one of `STAGES`: the same in the histograms, in `Server-Timing` and in
the log. `queue` is the wait for the model, `infer` the run of the whole batch, `render` drawing without its wait."""
REFUSALS = ("overloaded", "too_large", "draining", "not_ready", "deadline_exceeded", "slow_request")
RELOAD_OUTCOMES = ("ok", "unchanged", "failed")
_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH"})
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)


class GpuMemoryCollector(Collector):
    """Memory of each GPU by NVML; nothing where there is no NVML, no driver or no GPU."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield used and total memory of every GPU, or nothing."""
        readings = _gpu_memory()
        if not readings:
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
    """Return (used, total) bytes of each GPU; empty where NVML cannot be had."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        memories = [pynvml.nvmlDeviceGetMemoryInfo(handle) for handle in handles]
        return [(int(memory.used), int(memory.total)) for memory in memories]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


class _Late(Collector):
    """What was measured and not yet told to its instrument, which is done before every scrape.

    A request records a dozen values. Between two runs of the model each of them finds its code and its memory gone
    from the core's caches; many values one after the other cost a fraction of that.
    """

    def __init__(self) -> None:
        self._values: deque[tuple[Callable[[float], None], float]] = deque()

    def add(self, record: Callable[[float], None], value: float) -> None:
        """Keep a value for its instrument; from any thread."""
        self._values.append((record, value))
        if len(self._values) >= MAX_LATE:
            self.tell()

    def tell(self) -> None:
        """Tell all values so far to their instruments."""
        while True:
            try:
                record, value = self._values.popleft()
            except IndexError:  # another thread may have told the last one
                return
            record(value)

    def describe(self) -> list[Metric]:
        """Return no metric: there is none of its own."""
        return []

    def collect(self) -> list[Metric]:
        """Tell all values, before the instruments behind this one are read."""
        self.tell()
        return []


class Metrics:
    """All instruments of one service."""

    def __init__(self) -> None:
        # The `_created` series double the count and no rule or dashboard reads them.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._late = _Late()
        self.registry.register(self._late)  # the first: collectors are asked in this order
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(GpuMemoryCollector())
        self._make_http_instruments()
        self._make_work_instruments()
        self._make_model_instruments()
        # `labels()` takes a lock and checks its arguments; a request looks its children up here instead.
        self._known_requests: dict[tuple[str, str, int], Counter] = {}
        self._known_routes: dict[str, Histogram] = {}
        self._known_classes: dict[str, Counter] = {}
        self._known_formats: dict[str, Counter] = {}
        # Children that exist from the start are scraped as 0, so that `increase()` sees their first event.
        self._known_stages = {stage: self._stage_seconds.labels(stage) for stage in STAGES}
        for reason in REFUSALS:
            self._refused.labels(reason)
        for outcome in RELOAD_OUTCOMES:
            self._reloads.labels(outcome)

    def _make_http_instruments(self) -> None:
        registry = self.registry
        self._requests = Counter(
            "fieldmark_http_requests_total", "Requests answered.", ["route", "method", "code"], registry=registry
        )
        self._request_seconds = Histogram(
            "fieldmark_http_request_duration_seconds",
            "Time from the request's header to the end of the answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._in_flight = Gauge(
            "fieldmark_requests_in_flight", "Requests admitted, not yet answered.", registry=registry
        )
        self._refused = Counter(
            "fieldmark_requests_refused_total",
            "Requests refused for load, size or time, by problem code.",
            ["reason"],
            registry=registry,
        )

    def _make_work_instruments(self) -> None:
        registry = self.registry
        self._stage_seconds = Histogram(
            "fieldmark_stage_duration_seconds",
            "Time of one stage of one image: decode, queue, infer, render.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch_images = Histogram(
            "fieldmark_batch_images", "Images in one run.", buckets=_IMAGES, registry=registry
        )
        self._queue_seconds = Histogram(
            "fieldmark_queue_wait_seconds", "Time an image waited for its run.", buckets=_SECONDS, registry=registry
        )
        self._queue_depth = Gauge("fieldmark_queue_depth_images", "Images waiting for a run.", registry=registry)
        self._decoded = Counter("fieldmark_images_decoded_total", "Images decoded.", ["format"], registry=registry)
        self._confidence = Histogram(
            "fieldmark_prediction_confidence_ratio",
            "Calibrated probability of the first class of each image.",
            buckets=_RATIOS,
            registry=registry,
        )
        self._predicted = Counter(
            "fieldmark_predictions_total", "Images by their first class.", ["label"], registry=registry
        )

    def _make_model_instruments(self) -> None:
        registry = self.registry
        self._model_info = Gauge(
            "fieldmark_model_info",
            "Models loaded, with the provider that runs them; always 1.",
            ["name", "version", "sha256", "provider", "precision"],
            registry=registry,
        )
        self._reloads = Counter("fieldmark_model_reloads_total", "Reloads of models.", ["outcome"], registry=registry)
        self._missing_files = Gauge(
            "fieldmark_model_files_missing", "Models loaded whose file is gone.", registry=registry
        )
        build = Gauge("fieldmark_build_info", "Version of the service; always 1.", ["version"], registry=registry)
        build.labels(service_version()).set(1)

    def stage(self, name: str, seconds: float) -> None:
        """Record one stage of one image; `name` is one of `STAGES`."""
        self._late.add(self._known_stages[name].observe, seconds)

    def batch(self, size: int) -> None:
        """Record one run of `size` images."""
        self._late.add(self._batch_images.observe, size)

    def queue_wait(self, seconds: float) -> None:
        """Record how long one image waited for its run."""
        self._late.add(self._queue_seconds.observe, seconds)

    def refused(self, reason: str) -> None:
        """Count a refused request, by its problem code, one of `REFUSALS`."""
        self._refused.labels(reason).inc()

    def decoded(self, image_format: str) -> None:
        """Count one decoded image."""
        if image_format not in self._known_formats:
            self._known_formats[image_format] = self._decoded.labels(image_format.lower())
        self._late.add(self._known_formats[image_format].inc, 1)

    def reloaded(self, outcome: str) -> None:
        """Count a reload of models, by one of `RELOAD_OUTCOMES`."""
        self._reloads.labels(outcome).inc()

    def request(self, route: str, method: str, code: int, seconds: float) -> None:
        """Record an answered request; `route` is the template, never the address."""
        key = (route, method if method in _METHODS else "other", code)
        if key not in self._known_requests:
            self._known_requests[key] = self._requests.labels(*key)
            self._known_routes[route] = self._request_seconds.labels(route)
        self._late.add(self._known_requests[key].inc, 1)
        self._late.add(self._known_routes[route].observe, seconds)

    def in_flight(self, read: Callable[[], float]) -> None:
        """Ask `read` for the number of requests in hand at every scrape."""
        self._in_flight.set_function(read)

    def queue_depth(self, read: Callable[[], float]) -> None:
        """Ask `read` for the number of waiting images at every scrape."""
        self._queue_depth.set_function(read)

    def model_loaded(self, name: str, version: str, sha256: str, provider: str, precision: str) -> None:
        """Show a model as loaded."""
        self._model_info.labels(name, version, sha256, provider, precision).set(1)

    def model_unloaded(self, name: str, version: str, sha256: str, provider: str, precision: str) -> None:
        """Take a model off the list."""
        self._model_info.remove(name, version, sha256, provider, precision)

    def missing_files(self, count: int) -> None:
        """Set how many loaded models have no file any more."""
        self._missing_files.set(count)

    def confidence(self, probability: float) -> None:
        """Record the probability of the first class."""
        self._late.add(self._confidence.observe, probability)

    def predicted(self, label: str) -> None:
        """Count the first class of an image; beyond `MAX_CLASS_SERIES` classes as `other`."""
        if label not in self._known_classes:
            if len(self._known_classes) >= MAX_CLASS_SERIES:
                label = "other"
            self._known_classes[label] = self._predicted.labels(label)
        self._late.add(self._known_classes[label].inc, 1)

    def exposition(self, accept: str | None) -> tuple[bytes, str]:
        """Return the page for a scrape and its media type, in the format that `accept` asks for."""
        encode, media_type = choose_encoder(accept or "")
        return encode(self.registry), media_type


def service_version() -> str:
    """Return the version of the installed distribution."""
    try:
        return version("fieldmark")
    except PackageNotFoundError:  # run from a bare checkout
        return "unknown"
