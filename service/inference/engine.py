"""Engines run a model: a question about images in, the graph's outputs out.

On the CPU one run has one thread and one image: as many runs as cores at the same time are faster than any batch. A
run beside which nothing else runs gets a thread on every core.
On CUDA one run at a time has a batch, padded to a size that has a warm session of its own.
"""

import itertools
import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from model.contract.graph import BEST, LAST_LAYER, MAX_MARKS, OUTPUTS, feeds, no_class, no_mark
from model.contract.manifest import Manifest, synthetic_images
from service.inference.batcher import WorkerLost
from service.inference.cpus import usable_cores
from service.inference.sessions import CUDA, open_session, read_file
from service.settings import Settings

_LOST_GPU = re.compile(r"CUDA (error|failure)|CUDNN failure|CUBLAS failure|illegal memory access", re.IGNORECASE)
_NO_MEMORY = re.compile(r"out of memory|failed to allocate", re.IGNORECASE)

MOST_THREADS = 8
"""Of one run: its operators are too small for more."""
LEAST_SPEED_UP = 1.1
"""By which a run that is alone must be faster with them: the second session takes memory."""
TURNS, RUNS_A_TURN, MOST_TIMING_S = 8, 4, 0.5
"""In which both are measured, and the time after which no further turn begins."""

logger = logging.getLogger(__name__)

Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Images = npt.NDArray[np.uint8] | Sequence[npt.NDArray[np.uint8]]


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """The inputs of a run beside its N images, in the graph's codes; made from a request's options.

    Attributes:
        target: classes to explain, 0…K−1 a class, −1…−K a rank, (N, T).
        versus: classes to contrast them with, the same codes, K for none, (N, T).
        layer: index into the manifest's layers.
        mark: marks whose maps are requested, 0…A−1 a mark, −1…−8 a rank, A for none, (N, M); None for a model
            without marks.
    """

    target: Codes
    versus: Codes
    layer: int = LAST_LAYER
    mark: Codes | None = None

    @classmethod
    def about(
        cls,
        manifest: Manifest,
        targets: Sequence[int] = (BEST,),
        versus: Sequence[int] | None = None,
        layer: int = LAST_LAYER,
        marks: Sequence[int] = (),
    ) -> "Question":
        """Return a question about one image; cached, since nearly all requests have the same.

        A model with marks always gets codes for `MAX_MARKS` of them, so that requests share their batches. That is
        free: of 312 marks on 36×36 places, MobileNetV2 at 288 px, a run on one core took 1.002 (0.989–1.012) times as
        long with eight as with one (median and 95% interval of 150 pairs, ONNX Runtime 1.32, 2026-11-26).

        Args:
            manifest: of the model.
            targets: codes, T.
            versus: codes, as many as targets; None for no contrast.
            layer: index into the manifest's layers.
            marks: codes, at most `MAX_MARKS`; a model without marks is asked for none.
        """
        none = no_class(manifest.num_classes)
        mark = None if manifest.marks is None else filled(marks, manifest.marks.num_marks)
        return _question(tuple(targets), tuple(versus) if versus is not None else (none,) * len(targets), layer, mark)

    @classmethod
    def batch(cls, questions: Sequence["Question"]) -> "Question":
        """Return one question about the images of all these, whose `kind` is the same."""
        target = np.concatenate([question.target for question in questions])
        versus = np.concatenate([question.versus for question in questions])
        marks = [question.mark for question in questions if question.mark is not None]
        return cls(target, versus, questions[0].layer, np.concatenate(marks) if marks else None)

    def repeated(self, count: int) -> "Question":
        """Return the question about `count` times as many images."""
        mark = None if self.mark is None else self.mark.repeat(count, axis=0)
        return Question(self.target.repeat(count, axis=0), self.versus.repeat(count, axis=0), self.layer, mark)

    def padded(self, size: int, none: int) -> "Question":
        """Return the question about `size` images; for the padding it asks for the best class and the best mark.

        Args:
            size: of the batch.
            none: the code of no contrast.
        """
        padding = ((0, size - len(self.target)), (0, 0))
        target = np.pad(self.target, padding, constant_values=BEST)
        mark = None if self.mark is None else np.pad(self.mark, padding, constant_values=BEST)
        return Question(target, np.pad(self.versus, padding, constant_values=none), self.layer, mark)

    @property
    def kind(self) -> tuple[int, int, int]:
        """Questions of the same kind may share a run: layer, T and M."""
        return self.layer, self.target.shape[1], 0 if self.mark is None else self.mark.shape[1]

    def feeds(self, images: Images) -> dict[str, Any]:
        """Return the inputs of the graph by name, the images unchanged."""
        return feeds(images, self.target, self.versus, self.layer, self.mark)


def filled(marks: Sequence[int], num_marks: int) -> tuple[int, ...]:
    """Return codes of marks for one image, filled up to `MAX_MARKS` with the code of none."""
    return (*marks, *[no_mark(num_marks)] * (MAX_MARKS - len(marks)))


@lru_cache(maxsize=256)
def _question(targets: tuple[int, ...], versus: tuple[int, ...], layer: int, marks: tuple[int, ...] | None) -> Question:
    codes = np.array([[targets], [versus]], dtype=np.int64)
    mark = None if marks is None else np.array([marks], dtype=np.int64)
    for shared in (codes, mark):
        if shared is not None:
            shared.flags.writeable = False
    return Question(codes[0], codes[1], layer, mark)


@dataclass(frozen=True, slots=True)
class Outputs:
    """The graph's outputs for N images, T targets and M marks each; None where the model does not have one.

    Attributes:
        logits: (N, K).
        probabilities: calibrated, (N, K).
        gradcam: ≥ 0 or NaN for an unknown target, in units of the logit, (N, T, h, w).
        explained: class that each map is of, -1 for an unknown target, (N, T).
        attention: in [0, 1], (N, h, w).
        embedding: of length 1, (N, D).
        novelty: higher is less like the training photos, (N).
        marks: calibrated probabilities that a mark is seen, (N, A).
        mark_maps: where each mark is read, ≥ 0 or NaN for none, (N, M, h, w).
        marked: mark that each map is of, A for none, (N, M).
    """

    logits: Floats
    probabilities: Floats
    gradcam: Floats
    explained: npt.NDArray[np.int64]
    attention: Floats | None = None
    embedding: Floats | None = None
    novelty: Floats | None = None
    marks: Floats | None = None
    mark_maps: Floats | None = None
    marked: npt.NDArray[np.int64] | None = None

    def rows(self, count: int) -> "Outputs":
        """Return the first `count` images, without the padding."""
        return Outputs(**{name: values[:count] for name, values in self.present().items()})

    def image(self, index: int) -> "Outputs":
        """Return one image as a batch of one; a copy, so that it does not keep the whole batch in memory."""
        return Outputs(**{name: values[index : index + 1].copy() for name, values in self.present().items()})

    def present(self) -> dict[str, npt.NDArray[Any]]:
        """Return the outputs that the model has, by name."""
        return {name: values for name in _NAMES if (values := getattr(self, name)) is not None}


_NAMES = tuple(field.name for field in fields(Outputs))


class Engine(Protocol):
    """Runs a model.

    Attributes:
        manifest: of the model.
        provider: ONNX Runtime's name for the device in use.
        max_batch_size: most images of one run.
        concurrency: runs at the same time.
    """

    manifest: Manifest
    provider: str
    max_batch_size: int
    concurrency: int

    def run(self, images: Images, question: Question, *, alone: bool = False) -> Outputs:
        """Run the graph; blocks.

        Args:
            images: RGB, (N, S, S, 3), or a list of N images (S, S, 3).
            question: about these N images.
            alone: whether nothing else is in hand, so that the other cores would idle.
        """
        ...


class OnnxEngine:
    """A model in ONNX Runtime, verified; warm once `warm_up` has returned.

    On CUDA every batch size has a session of its own. ONNX Runtime plans its convolutions anew whenever the batch size
    of a session changes (microsoft/onnxruntime#23006): on an H200, 2026-11-26, with the bundled model and
    onnxruntime-gpu 1.31.1, a run after a change took 2.4–2.7 s, one of the same size 2–5 ms. Images are passed from
    ordinary memory: pinned memory made batches of 64 1.05–1.09× as fast and single images 0.86–0.93× there.

    Args:
        model: path or content of an ONNX file with a manifest.
        settings: device, threads, batch size, memory.
        known: whether this content was searched for external data before.
        all_cores: whether a second session is kept for runs that are alone, where `warm_up` finds it faster.

    Raises:
        ModelRejected: no runtime, no GPU though `device=cuda`, or not a file with the graph contract.
    """

    def __init__(self, model: Path | bytes, settings: Settings, *, known: bool = False, all_cores: bool = True) -> None:
        data = model if isinstance(model, bytes) else read_file(model)
        session, self.manifest = open_session(data, settings, known=known)
        self.provider: str = session.get_providers()[0]
        self._outputs = [node.name for node in session.get_outputs() if node.name in OUTPUTS]
        on_gpu = self.provider == CUDA
        self.max_batch_size = settings.max_batch_size if on_gpu else 1
        self.concurrency = 1 if on_gpu else settings.cpu_runs or usable_cores()
        self._pads = on_gpu
        sizes = padded_sizes(self.max_batch_size)
        self._sessions = {sizes[0]: session} | {size: open_session(data, settings, known=True)[0] for size in sizes[1:]}
        self._alone: Any = None
        self._is_measured = False
        threads = min(self.concurrency, MOST_THREADS)
        if all_cores and threads > 1:
            self._alone = open_session(data, settings, known=True, threads=threads)[0]

    def run(self, images: Images, question: Question, *, alone: bool = False) -> Outputs:
        """Run the graph on a batch; see `Engine.run`.

        Raises:
            WorkerLost: the GPU is gone; no further run can work.
        """
        try:
            if not self._pads:
                session = self._alone if alone and self._alone is not None else self._sessions[1]
                return self._run(session, question.feeds(np.asarray(images)))
            size = padded_size(len(images), self.max_batch_size)
            padded = question.padded(size, no_class(self.manifest.num_classes)).feeds(pad(images, size))
            return self._run(self._sessions[size], padded).rows(len(images))
        except Exception as error:
            if self.provider == CUDA and _LOST_GPU.search(str(error)) and not _NO_MEMORY.search(str(error)):
                raise WorkerLost("the GPU failed") from error
            raise

    def _run(self, session: Any, inputs: dict[str, Any]) -> Outputs:
        return collect(self._outputs, session.run(self._outputs, inputs))

    def warm_up(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Run every padded batch size once, so that no request waits for a first run, and measure runs that are alone.

        Args:
            clock: seconds.
        """
        image = synthetic_images(0, 1, self.manifest.input_size)
        question = Question.about(self.manifest)
        for count in padded_sizes(self.max_batch_size):
            self.run(image.repeat(count, axis=0), question.repeated(count))
        if self._alone is not None and self._is_measured:
            self.run(image, question, alone=True)
        elif self._alone is not None:
            self._keep_if_faster(image, question, clock)

    @property
    def takes_all_cores(self) -> bool:
        """Whether a run that is alone takes all cores."""
        return self._alone is not None

    def take_all_cores_as(self, other: Engine) -> None:
        """Keep the session for runs that are alone where another engine keeps its own; before `warm_up`.

        For the model that takes the place of another: it is loaded while requests run, and on busy cores a run on all
        of them waits for the slowest, so that what is measured then is the load.
        """
        self._is_measured = isinstance(other, OnnxEngine) and other.takes_all_cores

    def _keep_if_faster(self, image: Images, question: Question, clock: Callable[[], float]) -> None:
        """Keep the session for runs that are alone only where it is faster on one image."""
        # In turns, and the shortest of each: what else starts with the service only lengthens runs.
        shortest = {False: math.inf, True: math.inf}
        until = clock() + MOST_TIMING_S
        for turn in range(TURNS):
            if turn and clock() > until:
                break
            for alone, _ in itertools.product(shortest, range(RUNS_A_TURN)):
                started = clock()
                self.run(image, question, alone=alone)
                shortest[alone] = min(shortest[alone], clock() - started)
        speed_up = shortest[False] / shortest[True]
        if speed_up < LEAST_SPEED_UP:
            self._alone = None
        kept = "kept" if self._alone is not None else "not kept"
        logger.info("a thread on every core for a run alone: %s, %.2f times as fast", kept, speed_up)


def may_pass(error: Exception) -> bool:
    """Return whether a fault of loading is not the file's: of the storage or its rights, of the GPU, or of memory."""
    faults = (error, error.__cause__)
    return any(isinstance(one, OSError | WorkerLost | MemoryError) or _NO_MEMORY.search(str(one)) for one in faults)


def padded_sizes(largest: int) -> list[int]:
    """Return the batch sizes that CUDA runs: powers of two, and the largest."""
    sizes = [1]
    while sizes[-1] * 2 < largest:
        sizes.append(sizes[-1] * 2)
    return sizes if largest <= 1 else [*sizes, largest]


def padded_size(count: int, largest: int) -> int:
    """Return the smallest size that holds `count` images, at most `largest`."""
    return next(size for size in padded_sizes(largest) if size >= count)


def pad(images: Images, size: int) -> npt.NDArray[np.uint8]:
    """Return N images as a batch of `size`, the rest black."""
    batch = np.zeros((size, *np.shape(images[0])), dtype=np.uint8)
    for row, image in zip(batch, images, strict=False):
        row[...] = image
    return batch


def collect(names: Sequence[str], values: Sequence[Any]) -> Outputs:
    """Return the outputs of a run, given their names and values."""
    return Outputs(
        **{
            name: np.asarray(value, dtype=np.dtype(OUTPUTS[name].dtype))
            for name, value in zip(names, values, strict=True)
        }
    )
