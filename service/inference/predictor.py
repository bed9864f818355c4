"""The one way from an image's bytes to a result; routes, the Open Inference Protocol and the commands all take it.

Without a GPU one piece of work decodes, prepares and runs one image: a thread that has just decoded an image runs
it while its pixels are still in the core's cache, and a bad image can only fail itself. With a GPU, images are
decoded and prepared in the pool while the batch before them runs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from model.photo.decode import DecodedImage, decode_image, prepare
from model.photo.errors import PhotoError
from model.photo.limits import ImageLimits
from service.errors import of_photo
from service.inference.batcher import Done
from service.inference.engine import Outputs, Question
from service.inference.models import ServedModel
from service.inference.workers import GpuWork, Workers
from service.metrics import Metrics, Timings

KEPT_PIXELS = 2_000_000
"""Most pixels of an image that are kept while its prediction waits; who draws decodes again."""

Args = ParamSpec("Args")
T = TypeVar("T")


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
        question: that this answers.
        served: the model that answered.
        timings: where the time went; rendering adds its own.
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
    question: Question
    served: ServedModel
    timings: Timings
    reopen: Callable[[], DecodedImage]

    @property
    def explained_class(self) -> int:
        """The class that the first map is of."""
        return int(self.explained[0])

    def image_of(self, side: int) -> DecodedImage:
        """Return the image with at least `side` pixels on its longer side, as far as it has them.

        Blocks, decoding again in full what was not kept, or kept with fewer pixels. Only who draws needs it, one
        picture a thread: no queue ever holds images in full.
        """
        kept = self.image
        if kept is not None and (kept.scale == 1 or max(kept.image.size) >= side):
            return kept
        return self.reopen()


class _Seen(NamedTuple):
    """What is known of an image once it was decoded."""

    image: DecodedImage | None
    width: int
    height: int
    format: str


class Predictor:
    """Takes images through decoding, queue and model.

    Args:
        workers: the queues.
        limits: of what is decoded.
        metrics: where the time of every stage is recorded.
    """

    def __init__(self, workers: Workers, limits: ImageLimits, metrics: Metrics) -> None:
        self._workers = workers
        self._limits = limits
        self._metrics = metrics

    async def predict(
        self,
        served: ServedModel,
        data: bytes,
        question: Question,
        *,
        lane: str = "classify",
        deadline: float | None = None,
        keep_image: bool = False,
    ) -> Prediction:
        """Return what a model says of an encoded image.

        Args:
            served: the model.
            data: the file's bytes.
            question: about this image.
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
        if served.engine.max_batch_size > 1:
            return await self._through_gpu(served, data, question, lane, deadline, keep_image)
        done = await self._workers.cpu.submit(
            lambda: self._decode_and_run(served, data, question, keep_image), lane=lane, deadline=deadline
        )
        seen, outputs, decode_s = done.result
        self._metrics.batch_images.observe(1)
        timings = {"decode": decode_s, "queue": done.queue_s, "infer": done.run_s - decode_s}
        return self._record(served, question, seen, outputs, timings, data)

    async def predict_array(
        self,
        served: ServedModel,
        image: npt.NDArray[np.uint8],
        question: Question,
        *,
        lane: str = "classify",
        deadline: float | None = None,
    ) -> Prediction:
        """Return what a model says of pixels that are prepared already, uint8 (S, S, 3); else like `predict`."""
        done: Done[Outputs]
        if served.engine.max_batch_size > 1:
            done = await self._submit_gpu(served, image, question, lane, deadline)
        else:
            run = served.engine.run
            done = await self._workers.cpu.submit(
                lambda: run(image[np.newaxis], question), lane=lane, deadline=deadline
            )
            self._metrics.batch_images.observe(1)
        side = served.manifest.input_size
        timings = {"queue": done.queue_s, "infer": done.run_s}
        return self._record(served, question, _Seen(None, side, side, "RAW"), done.result, timings, b"")

    async def render(
        self, prediction: Prediction, func: Callable[Args, T], *args: Args.args, **kwargs: Args.kwargs
    ) -> T:
        """Run a function that draws in the pool, in the turn of `explain`; its time becomes the prediction's."""
        done: Done[T] = await self._workers.cpu.submit(lambda: func(*args, **kwargs), lane="explain")
        self._metrics.stage("render", done.run_s)
        prediction.timings["render"] = prediction.timings.get("render", 0.0) + done.run_s
        return done.result

    async def draw(
        self, prediction: Prediction, side: int, func: Callable[Concatenate[DecodedImage, Args], T], *args: Args.args,
        **kwargs: Args.kwargs,
    ) -> T:  # fmt: skip
        """Run a function that draws on the image, given with at least `side` pixels; else like `render`."""
        return await self.render(prediction, lambda: func(prediction.image_of(side), *args, **kwargs))

    async def _through_gpu(
        self,
        served: ServedModel,
        data: bytes,
        question: Question,
        lane: str,
        deadline: float | None,
        keep_image: bool,
    ) -> Prediction:
        decoded: Done[tuple[_Seen, npt.NDArray[np.uint8]]] = await self._workers.cpu.submit(
            lambda: self._decode(served, data, keep_image), lane=lane, deadline=deadline
        )
        seen, pixels = decoded.result
        done = await self._submit_gpu(served, pixels, question, lane, deadline)
        timings = {"decode": decoded.run_s, "queue": decoded.queue_s + done.queue_s, "infer": done.run_s}
        return self._record(served, question, seen, done.result, timings, data)

    async def _submit_gpu(
        self,
        served: ServedModel,
        pixels: npt.NDArray[np.uint8],
        question: Question,
        lane: str,
        deadline: float | None,
    ) -> Done[Outputs]:
        work = GpuWork(served.engine, pixels, question)
        return await self._workers.gpu.submit(work, lane=lane, key=work.key, deadline=deadline)

    def _decode(self, served: ServedModel, data: bytes, keep_image: bool) -> tuple[_Seen, npt.NDArray[np.uint8]]:
        resize = served.manifest.resize
        image = self._decode_at(data, resize.size)
        kept = _shrink(image) if keep_image else None
        return _Seen(kept, image.width, image.height, image.format), prepare(image, resize)

    def _decode_and_run(
        self, served: ServedModel, data: bytes, question: Question, keep_image: bool
    ) -> tuple[_Seen, Outputs, float]:
        started = time.monotonic()
        seen, pixels = self._decode(served, data, keep_image)
        decode_s = time.monotonic() - started
        return seen, served.engine.run(pixels[np.newaxis], question), decode_s

    def _record(
        self,
        served: ServedModel,
        question: Question,
        seen: _Seen,
        outputs: Outputs,
        timings: Timings,
        data: bytes,
    ) -> Prediction:
        """Record the times of one image, and return its prediction."""
        metrics = self._metrics
        if data:
            metrics.decoded(seen.format)
        for stage, seconds in timings.items():
            metrics.stage(stage, seconds)
        return Prediction(
            image=seen.image,
            width=seen.width,
            height=seen.height,
            logits=outputs.logits[0],
            probabilities=outputs.probabilities[0],
            attention=None if outputs.attention is None else outputs.attention[0],
            gradcam=outputs.gradcam[0],
            explained=outputs.explained[0],
            question=question,
            served=served,
            timings=timings,
            reopen=lambda: self._decode_at(data, None),
        )

    def _decode_at(self, data: bytes, min_side: int | None) -> DecodedImage:
        try:
            return decode_image(data, self._limits, min_side=min_side)
        except PhotoError as error:
            raise of_photo(error) from error


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
