"""Which of two files runs: a model as exported, or its variant in a smaller precision.

Never silently: `fp32` takes the file, `int8` its variant or nothing, and `auto` measures. A variant must be of the very
file that it lies beside, since it answers under that file's name and version.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from model.contract.manifest import synthetic_images
from model.contract.variant import difference, quality_fault, variant_path
from service.inference.engine import Engine, OnnxEngine, Question
from service.inference.sessions import CUDA, ModelRejected, read_file, wants_cuda
from service.settings import Settings

LEAST_SPEED_UP = 1.3
"""How much faster a variant must be to be taken by `auto`."""
FEWEST_PAIRS, MOST_PAIRS = 10, 50
MOST_TIMING_S = 1.0

logger = logging.getLogger(__name__)

Load = Callable[[bytes, Settings], Engine]
Check = Callable[[Engine, str], None]


class NoVariant(ModelRejected):
    """A file is no variant of the one that it lies beside."""


@dataclass(frozen=True)
class ModelFiles:
    """The content of a file and of the variant beside it, read once.

    Attributes:
        full: the file.
        variant: the variant; None where there is none, or none is looked for.
        precision: of the variant that is looked for; empty for none.
        name: of the variant's file.
    """

    full: bytes
    variant: bytes | None
    precision: str
    name: str

    @cached_property
    def sha256s(self) -> tuple[str, ...]:
        """Of the file, and of the variant where there is one; hexadecimal."""
        return tuple(hashlib.sha256(data).hexdigest() for data in (self.full, self.variant) if data is not None)


def variant_precision(settings: Settings) -> str:
    """Return the precision of the variants that are looked for; empty for none.

    Raises:
        ModelRejected: `device=cuda` with a runtime that has no CUDA provider.
    """
    if settings.precision == "auto":
        return "fp16" if wants_cuda(settings) else "int8"
    return "" if settings.precision == "fp32" else settings.precision


def read_files(path: Path, settings: Settings) -> ModelFiles:
    """Read a model's file and the variant beside it.

    Raises:
        ModelRejected: one cannot be read; the message holds no folder, since clients may see it.
    """
    precision = variant_precision(settings)
    beside = variant_path(path, precision) if precision else path
    variant = read_file(beside) if precision and beside.is_file() else None
    return ModelFiles(read_file(path), variant, precision, beside.name)


def choose(
    files: ModelFiles,
    settings: Settings,
    load: Load,
    check: Check,
    replaces: Engine | None = None,
    speed_up: Callable[[Engine, Engine], float] | None = None,
) -> tuple[Engine, str]:
    """Return the engine that answers, checked and warm, and the sha256 of its file.

    Args:
        files: of the model.
        settings: with the precision, and what `load` needs.
        load: makes an engine of a file's bytes.
        check: raises where an engine does not compute what was exported; given it and its file's sha256.
        replaces: that is served already; it stays where the variant is broken.
        speed_up: measures how many times as fast as the first engine the second one is; by default `measured`.

    Raises:
        ModelRejected: neither may answer, or the variant is broken and a model is served already.
        WorkerLost: the GPU is gone.
    """
    speed_up = speed_up or measured
    sha256, *of_variant = files.sha256s

    def loaded(data: bytes) -> Engine:
        engine = load(data, settings)
        if replaces is not None and isinstance(engine, OnnxEngine):
            engine.take_all_cores_as(replaces)
        return engine

    full = loaded(files.full)
    variant: Engine | None = None
    if files.variant is not None:
        try:
            variant = loaded(files.variant)
            if fault := difference(full.manifest, sha256, variant.manifest, files.precision):
                raise NoVariant(fault)
            check(variant, of_variant[0])
        except ModelRejected as error:
            reason = f"{files.name}: {error}"
            if settings.precision != "auto" or (replaces is not None and not isinstance(error, NoVariant)):
                raise ModelRejected(reason) from error
            logger.error("%s is refused, %s answers: %s", files.name, full.manifest.precision, error)
            variant = None
    elif settings.precision not in ("auto", full.manifest.precision):
        own = full.manifest.precision
        raise ModelRejected(
            f"precision=fp32, but the file itself is in {own}: set precision={own}" if settings.precision == "fp32"
            else f"precision={settings.precision}, but there is no file {files.name} beside it"
        )  # fmt: skip
    if variant is not None and _is_taken(files.name, full, variant, settings, speed_up):
        return variant, of_variant[0]
    check(full, sha256)
    return full, sha256


def _is_taken(
    name: str, full: Engine, variant: Engine, settings: Settings, speed_up: Callable[[Engine, Engine], float]
) -> bool:
    """Return whether the variant answers, and log why."""
    if settings.precision == "auto" and (fault := quality_fault(variant.manifest)):
        logger.warning("%s is not used: %s", name, fault)
        return False
    ratio = speed_up(full, variant)
    if settings.precision != "auto":
        if ratio < 1:
            logger.warning("%s is used as set, though it is slower here: %.2f times as fast as fp32", name, ratio)
        return True
    taken = ratio >= LEAST_SPEED_UP
    verb = "used" if taken else "not used"
    logger.info("%s is %s: %.2f times as fast as fp32, needed are %.1f", name, verb, ratio, LEAST_SPEED_UP)
    return taken


def measured(full: Engine, variant: Engine, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return how many times as fast as the first engine the second one is: their shortest runs, taken in turn.

    What else the machine does only lengthens a run, so the shortest ones say most.

    Args:
        full: an engine.
        variant: another one, of the same inputs.
        clock: seconds.
    """
    count = full.max_batch_size if full.provider == CUDA else 1
    images = synthetic_images(0, 1, full.manifest.input_size).repeat(count, axis=0)
    question = Question.about(full.manifest).repeated(count)
    until = clock() + MOST_TIMING_S
    seconds: dict[Engine, list[float]] = {full: [], variant: []}
    while len(seconds[full]) < FEWEST_PAIRS or (len(seconds[full]) < MOST_PAIRS and clock() < until):
        for engine in (full, variant):
            started = clock()
            engine.run(images, question)
            seconds[engine].append(clock() - started)
    return min(seconds[full]) / min(seconds[variant])
