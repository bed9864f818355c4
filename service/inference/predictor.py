"""From an image's bytes to a prediction, for routes, the Open Inference Protocol and the commands alike.

Without a GPU one piece of work decodes, prepares and runs one image: a thread that has just decoded an image runs
it while its pixels are still in the core's cache, and a bad image can only fail itself. With a GPU, images are
decoded and prepared in the pool while the batch before them runs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from model.contract.placing import Centres
from model.photo.decode import DecodedImage, decode_image, prepare
from model.photo.errors import PhotoError
from model.photo.limits import ImageLimits
from service.errors import of_photo
from service.inference.batcher import Done
from service.inference.engine import Engine, Outputs, Question
from service.inference.served import ServedModel
from service.inference.sessions import CUDA
from service.inference.workers import GpuWork, Workers
from service.metrics import Interval, Metrics, Timings

KEPT_PIXELS = 2_000_000
"""Most pixels of an image that are kept while its prediction waits; drawing decodes larger ones again."""

Again = Callable[[Outputs], Question | None]
"""Given the outputs for one image, returns the question whose answer replaces them; None keeps them."""
Args = ParamSpec("Args")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction of a model for one image.

    Attributes:
        image: decoded, maybe at a fraction of its size, if it was to be kept; see `image_of`.
        width: of the upright image, pixels.
        height: likewise.
        logits: (K,).
        probabilities: calibrated; given what may be there, where the request says that, (K,).
        gradcam: evidence for each target, (T, h, w).
        explained: class that each map is of, (T,).
        question: of the request.
        served: the model that answered.
        timings: time by stage; rendering adds its own.
        intervals: when each stage was; likewise.
        reopen: decodes the image in full.
        attention: in [0, 1], (h, w); this and the following None where the model does not have it.
        embedding: of length 1, (D,).
        novelty: higher is less like the training photos, a scalar.
        marks: calibrated probabilities that a mark is seen, (A,).
        mark_maps: where each requested mark is read, (M, h, w).
        marked: mark that each map is of, A for none, (M,).
        ruled_out: classes that cannot be there: their probabilities are 0, all others are not.
    """

    image: DecodedImage | None
    width: int
    height: int
    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    gradcam: npt.NDArray[np.float32]
    explained: npt.NDArray[np.int64]
    question: Question
    served: ServedModel
    timings: Timings
    reopen: Callable[[], DecodedImage]
    intervals: list[Interval] = field(default_factory=list)
    attention: npt.NDArray[np.float32] | None = None
    embedding: npt.NDArray[np.float32] | None = None
    novelty: np.float32 | None = None
    marks: npt.NDArray[np.float32] | None = None
    mark_maps: npt.NDArray[np.float32] | None = None
    marked: npt.NDArray[np.int64] | None = None
    ruled_out: int = 0

    @property
    def explained_class(self) -> int:
        """The class that the first map is of."""
        return int(self.explained[0])

    @property
    def versus_class(self) -> int | None:
        """The class that the first map is contrasted with, as `question_of` asks for both; None for no contrast."""
        return int(self.explained[1]) if len(self.explained) > 1 else None

    def centres(self, layer: int) -> Centres | None:
        """Return where the cells of a layer's map look; None where its maps are drawn with the cells side by side."""
        manifest = self.served.manifest
        return manifest.layers[layer].centres if manifest.placed_by_centres else None

    def image_of(self, side: int) -> DecodedImage:
        """Return the image with at least `side` pixels on its longer side, or all that it has.

        Blocks: decodes again in full what was not kept, or kept with fewer pixels. Called in the threads that draw,
        one image a thread, so that no queue holds images in full.
        """
        kept = self.image
        if kept is not None and (kept.scale == 1 or max(kept.image.size) >= side):
            return kept
        return self.reopen()


class _Decoded(NamedTuple):
    """A decoded image: its sides, and its pixels if they are to be kept."""

    image: DecodedImage | None
    width: int
    height: int


class Predictor:
    """Takes images through decoding, queue and model.

    Args:
        workers: the queues.
        limits: of what is decoded.
        metrics: where the time of every stage is observed.
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
        again: Again | None = None,
    ) -> Prediction:
        """Return the model's prediction of an encoded image.

        Args:
            served: the model.
            data: the file's bytes.
            question: about this image.
            lane: of the queues; lanes take turns.
            deadline: when it must have been started, on `time.monotonic()`'s clock.
            keep_image: return the pixels for drawing. Otherwise they are freed in the thread that decoded them, and
                the next image reuses their memory: freed in another thread they cost two hundred page faults an image.
            again: called after the run, with its outputs: the model runs once more on the same pixels where it returns
                another question.

        Raises:
            EmptyInput: no bytes.
            UnsupportedImageType: not a format that is served.
            UndecodableImage: broken or truncated.
            TooManyPixels: larger than is decoded.
            Overloaded: too much waits already.
            DeadlineExceeded: the deadline passed in the queue.
            NotReady: a worker is down.
        """
        submit = self._workers.cpu.submit
        if _has_queue(served.engine):
            prepared = await submit(lambda: self._decode(served, data, keep_image), lane=lane, deadline=deadline)
            decoded, pixels = prepared.result
            done = await self._run(served, pixels, question, lane, deadline)
            intervals = [_wait(prepared), Interval("decode", prepared.started, prepared.run_s), *_wait_and_run(done)]
            if again is not None and (other := again(done.result)) is not None:
                question = other
                done = await self._run(served, pixels, question, lane, deadline)
                intervals += _wait_and_run(done)
            outputs = done.result
        else:
            whole = await submit(
                lambda: self._decode_and_run(served, data, question, keep_image, again), lane=lane, deadline=deadline
            )
            decoded, outputs, question, decode_s = whole.result
            decode = Interval("decode", whole.started, decode_s)
            intervals = [_wait(whole), decode, Interval("infer", whole.started + decode_s, whole.run_s - decode_s)]
        return self._observed(served, question, decoded, outputs, intervals, data)

    async def predict_array(
        self,
        served: ServedModel,
        image: npt.NDArray[np.uint8],
        question: Question,
        *,
        lane: str = "classify",
        deadline: float | None = None,
    ) -> Prediction:
        """Return the model's prediction of pixels that are prepared already, uint8 (S, S, 3); else like `predict`."""
        done = await self._run(served, image, question, lane, deadline)
        side = served.manifest.input_size
        decoded = _Decoded(None, side, side)
        return self._observed(served, question, decoded, done.result, _wait_and_run(done), b"")

    async def render(
        self, prediction: Prediction, func: Callable[Args, T], *args: Args.args, **kwargs: Args.kwargs
    ) -> T:
        """Run a function that draws in the pool, in the lane `explain`; its time is added to the prediction's."""
        done: Done[T] = await self._workers.cpu.submit(lambda: func(*args, **kwargs), lane="explain")
        self._metrics.stage("render", done.run_s)
        prediction.timings["render"] = prediction.timings.get("render", 0.0) + done.run_s
        prediction.intervals.append(Interval("render", done.started, done.run_s))
        return done.result

    async def draw(
        self, prediction: Prediction, side: int, func: Callable[Concatenate[DecodedImage, Args], T], *args: Args.args,
        **kwargs: Args.kwargs,
    ) -> T:  # fmt: skip
        """Run a function that draws on the image, given with at least `side` pixels; else like `render`."""
        return await self.render(prediction, lambda: func(prediction.image_of(side), *args, **kwargs))

    async def _run(
        self, served: ServedModel, pixels: npt.NDArray[np.uint8], question: Question, lane: str, deadline: float | None
    ) -> Done[Outputs]:
        """Run the model on prepared pixels, in the queue of the GPU where it runs on one."""
        engine = served.engine
        if _has_queue(engine):
            work = GpuWork(engine, pixels, question)
            return await self._workers.gpu.submit(work, lane=lane, key=work.key, deadline=deadline)
        return await self._workers.cpu.submit(
            lambda: self._run_one(served, pixels, question), lane=lane, deadline=deadline
        )

    def _run_one(self, served: ServedModel, pixels: npt.NDArray[np.uint8], question: Question) -> Outputs:
        outputs = served.engine.run(pixels[np.newaxis], question, alone=self._workers.cpu.is_alone)
        self._metrics.batch_images.observe(1)
        return outputs

    def _decode(self, served: ServedModel, data: bytes, keep_image: bool) -> tuple[_Decoded, npt.NDArray[np.uint8]]:
        resize = served.manifest.resize
        image = self._decode_at(data, resize.size)
        self._metrics.decoded(image.format)
        kept = _shrink(image) if keep_image else None
        return _Decoded(kept, image.width, image.height), prepare(image, resize)

    def _decode_and_run(
        self, served: ServedModel, data: bytes, question: Question, keep_image: bool, again: Again | None
    ) -> tuple[_Decoded, Outputs, Question, float]:
        started = time.monotonic()
        decoded, pixels = self._decode(served, data, keep_image)
        decode_s = time.monotonic() - started
        outputs = self._run_one(served, pixels, question)
        if again is not None and (other := again(outputs)) is not None:
            question, outputs = other, self._run_one(served, pixels, other)
        return decoded, outputs, question, decode_s

    def _observed(
        self,
        served: ServedModel,
        question: Question,
        decoded: _Decoded,
        outputs: Outputs,
        intervals: list[Interval],
        data: bytes,
    ) -> Prediction:
        """Observe the times of one image, and return its prediction."""
        timings: Timings = {}
        for stage, _, seconds in intervals:
            timings[stage] = timings.get(stage, 0.0) + seconds
        for stage, seconds in timings.items():
            self._metrics.stage(stage, seconds)
        return Prediction(
            *decoded,
            **{name: values[0] for name, values in outputs.present().items()},
            question=question,
            served=served,
            timings=timings,
            intervals=intervals,
            reopen=lambda: self._decode_at(data, None),
        )

    def _decode_at(self, data: bytes, min_side: int | None) -> DecodedImage:
        try:
            return decode_image(data, self._limits, min_side=min_side)
        except PhotoError as error:
            raise of_photo(error) from error


def _has_queue(engine: Engine) -> bool:
    """Return whether an engine's runs have a queue of their own: one at a time, and in batches where it has them."""
    return engine.max_batch_size > 1 or engine.provider == CUDA


def _wait(done: Done[T]) -> Interval:
    return Interval("queue", done.started - done.queue_s, done.queue_s)


def _wait_and_run(done: Done[Outputs]) -> list[Interval]:
    return [_wait(done), Interval("infer", done.started, done.run_s)]


def _shrink(decoded: DecodedImage) -> DecodedImage:
    """Return a large image at a fraction of its size, so that a full queue does not fill the memory."""
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
