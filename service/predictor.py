"""The one way from an image's bytes to a result; routes, the Open Inference Protocol and the commands all take it.

Without a GPU one piece of work decodes, prepares and runs one image: a thread that has just decoded an image runs
it while its pixels are still in the core's cache, and a bad image can only fail itself. With a GPU, images are
decoded and prepared in the pool while the batch before them runs.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from model.photo.budget import return_large_blocks
from model.photo.decode import DecodedImage, decode_image, prepare
from model.photo.limits import ImageLimits
from service.batcher import Done
from service.engine import BEST, Outputs
from service.errors import EmptyInput, photo_errors
from service.metrics import Metrics
from service.registry import Registry, ServedModel
from service.settings import Settings
from service.workers import GpuWork

KEPT_PIXELS = 2_000_000
"""Most pixels of an image that are kept while its prediction waits; who draws decodes again."""

return_large_blocks()

Args = ParamSpec("Args")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one image went.

    Attributes:
        decode_s: decoding and preparing, seconds.
        queue_s: waiting, seconds.
        infer_s: in the model, seconds; of the whole batch.
        batch_size: images in its batch.
    """

    decode_s: float
    queue_s: float
    infer_s: float
    batch_size: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        image: decoded, maybe at a fraction of its size, if it was to be kept; see `full_image`.
        width: of the upright image, pixels.
        height: likewise.
        logits: (K,).
        probabilities: calibrated, (K,).
        attention: in [0, 1], (h, w); None for an arm without a spatial map.
        gradcam: evidence for each target, (T, h, w).
        explained: class that each map is of, (T,).
        layer: whose maps they are, index into the manifest's layers.
        served: the model that answered.
        timings: where the time went.
        reopen: decodes the image in full.
    """

    image: DecodedImage | None
    width: int
    height: int
    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    attention: npt.NDArray[np.float32] | None
    gradcam: npt.NDArray[np.float32]
    explained: npt.NDArray[np.int64]
    layer: int
    served: ServedModel
    timings: Timings
    reopen: Callable[[], DecodedImage]

    def full_image(self) -> DecodedImage:
        """Return the image with all its pixels; blocks, decoding again what was not kept, or decoded at a fraction.

        Only who draws needs it, one picture a thread: no queue ever holds images in full.
        """
        return self.image if self.image is not None and self.image.scale == 1 else self.reopen()


class _Seen(NamedTuple):
    """What is known of an image once it was decoded."""

    image: DecodedImage | None
    width: int
    height: int
    format: str


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of an image, as the graph takes it."""

    served: ServedModel
    target: npt.NDArray[np.int64]
    versus: npt.NDArray[np.int64]
    layer: int


class Predictor:
    """Takes images through decoding, queue and model.

    Args:
        registry: holds models and queues.
        settings: limits of images.
        metrics: told the time of every stage.
    """

    def __init__(self, registry: Registry, settings: Settings, metrics: Metrics) -> None:
        self._workers = registry.workers
        self._limits = image_limits(settings)
        self._metrics = metrics

    async def predict(
        self,
        served: ServedModel,
        data: bytes,
        *,
        targets: Sequence[int] = (BEST,),
        versus: Sequence[int] | None = None,
        layer: int = 0,
        lane: str = "classify",
        deadline: float | None = None,
        keep_image: bool = False,
    ) -> Prediction:
        """Return what a model says of an encoded image.

        Args:
            served: the model.
            data: the file's bytes.
            targets: codes of the classes to explain: 0…K−1 a class, −1…−K a rank.
            versus: codes of the classes to contrast them with, as many as targets; None for none.
            layer: index into the manifest's layers.
            lane: whose turn it shares in the queues.
            deadline: when it must have been started, on `time.monotonic()`'s clock.
            keep_image: hand the pixels on to who draws. Else they go where they were decoded, and the next image
                takes their place in memory: handed to another thread they cost two hundred page faults an image.

        Raises:
            EmptyInput: no bytes.
            UnsupportedImageType: not a format that is served.
            UndecodableImage: broken or truncated.
            TooManyPixels: larger than is decoded.
            Overloaded: too much waits already.
            DeadlineExceeded: the deadline passed in the queue.
            NotReady: a worker is down.
        """
        if not data:
            raise EmptyInput
        question = _question(served, targets, versus, layer)
        if served.engine.max_batch_size > 1:
            return await self._through_gpu(question, data, lane, deadline, keep_image)
        done = await self._workers.cpu.submit(
            lambda: self._decode_and_run(question, data, keep_image), lane=lane, deadline=deadline
        )
        seen, outputs, decode_s = done.result
        self._metrics.batch(1)
        return self._tell(question, seen, outputs, Timings(decode_s, done.queue_s, done.run_s - decode_s, 1), data)

    async def predict_array(
        self,
        served: ServedModel,
        image: npt.NDArray[np.uint8],
        *,
        targets: Sequence[int] = (BEST,),
        versus: Sequence[int] | None = None,
        layer: int = 0,
        lane: str = "classify",
        deadline: float | None = None,
    ) -> Prediction:
        """Return what a model says of pixels that are prepared already, uint8 (S, S, 3); else like `predict`."""
        question = _question(served, targets, versus, layer)
        done: Done[Outputs]
        if served.engine.max_batch_size > 1:
            done = await self._submit_gpu(question, image, lane, deadline)
        else:
            done = await self._workers.cpu.submit(lambda: _run(question, image), lane=lane, deadline=deadline)
            self._metrics.batch(1)
        side = served.manifest.input_size
        timings = Timings(0.0, done.queue_s, done.run_s, done.batch_size)
        return self._tell(question, _Seen(None, side, side, "RAW"), done.result, timings, b"")

    async def render(self, func: Callable[Args, T], *args: Args.args, **kwargs: Args.kwargs) -> T:
        """Run a rendering function in the pool, in the turn of `explain`, and return its result."""
        done: Done[T] = await self._workers.cpu.submit(lambda: func(*args, **kwargs), lane="explain")
        self._metrics.stage("render", done.run_s)
        return done.result

    async def _through_gpu(
        self, question: _Question, data: bytes, lane: str, deadline: float | None, keep_image: bool
    ) -> Prediction:
        decoded: Done[tuple[_Seen, npt.NDArray[np.uint8]]] = await self._workers.cpu.submit(
            lambda: self._decode(question.served, data, keep_image), lane=lane, deadline=deadline
        )
        seen, pixels = decoded.result
        done = await self._submit_gpu(question, pixels, lane, deadline)
        timings = Timings(decoded.run_s, decoded.queue_s + done.queue_s, done.run_s, done.batch_size)
        return self._tell(question, seen, done.result, timings, data)

    async def _submit_gpu(
        self, question: _Question, pixels: npt.NDArray[np.uint8], lane: str, deadline: float | None
    ) -> Done[Outputs]:
        work = GpuWork(question.served.engine, pixels, question.target, question.versus, question.layer)
        return await self._workers.gpu.submit(work, lane=lane, key=work.key, deadline=deadline)

    def _decode(self, served: ServedModel, data: bytes, keep_image: bool) -> tuple[_Seen, npt.NDArray[np.uint8]]:
        resize = served.manifest.resize
        with photo_errors():
            image = decode_image(data, self._limits, min_side=resize.size)
        kept = _shrink(image) if keep_image else None
        return _Seen(kept, image.width, image.height, image.format), prepare(image, resize)

    def _decode_and_run(self, question: _Question, data: bytes, keep_image: bool) -> tuple[_Seen, Outputs, float]:
        started = time.monotonic()
        seen, pixels = self._decode(question.served, data, keep_image)
        decode_s = time.monotonic() - started
        return seen, _run(question, pixels), decode_s

    def _tell(self, question: _Question, seen: _Seen, outputs: Outputs, timings: Timings, data: bytes) -> Prediction:
        metrics = self._metrics
        if data:
            metrics.decoded(seen.format)
            metrics.stage("decode", timings.decode_s)
        metrics.queue_wait(timings.queue_s)
        metrics.stage("queue", timings.queue_s)
        metrics.stage("infer", timings.infer_s)
        return Prediction(
            image=seen.image,
            width=seen.width,
            height=seen.height,
            logits=outputs.logits[0],
            probabilities=outputs.probabilities[0],
            attention=None if outputs.attention is None else outputs.attention[0],
            gradcam=outputs.gradcam[0],
            explained=outputs.explained[0],
            layer=question.layer,
            served=question.served,
            timings=timings,
            reopen=lambda: self._reopen(data),
        )

    def _reopen(self, data: bytes) -> DecodedImage:
        with photo_errors():
            return decode_image(data, self._limits)


def image_limits(settings: Settings) -> ImageLimits:
    """Return the settings' limits of what is decoded."""
    return ImageLimits(settings.max_pixels, frozenset(settings.formats.split(",")), settings.max_decode_bytes)


def _shrink(decoded: DecodedImage) -> DecodedImage:
    """Return a large image at a fraction of its size, so that a full queue is not a full memory."""
    width, height = decoded.image.size
    factor = 1
    while width * height > KEPT_PIXELS * factor * factor:
        factor *= 2
    if factor == 1:
        return decoded
    x, y = decoded.offset
    return replace(
        decoded,
        image=decoded.image.reduce(factor),
        scale=decoded.scale * factor,
        offset=(x / factor, y / factor),
    )


def _question(served: ServedModel, targets: Sequence[int], versus: Sequence[int] | None, layer: int) -> _Question:
    none = served.manifest.num_classes
    against = [none] * len(targets) if versus is None else versus
    return _Question(served, _codes(tuple(targets)), _codes(tuple(against)), layer)


@lru_cache(maxsize=256)
def _codes(codes: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return the codes of one image as the graph takes them, (1, T): nearly all requests ask the same."""
    array = np.array([codes], dtype=np.int64)
    array.flags.writeable = False
    return array


def _run(question: _Question, pixels: npt.NDArray[np.uint8]) -> Outputs:
    return question.served.engine.run(pixels[np.newaxis], question.target, question.versus, question.layer)
