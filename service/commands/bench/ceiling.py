"""What the machine gives at most: decode, prepare and a bare session in every core, without HTTP, queue or loop.

`python -m service.commands.bench.ceiling` reads its options from stdin and writes images a second and seconds an
image to stdout, as JSON; a process of its own, so that nothing of a server or of a load generator is beside it.
"""

import json
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.photo.budget import return_large_blocks
from model.photo.decode import decode_image, prepare
from service.inference.cpus import usable_cores
from service.inference.engine import OnnxEngine, Question
from service.settings import Settings


@dataclass(frozen=True)
class Ceiling:
    """What was measured.

    Attributes:
        images_per_s: with a thread on every core.
        image_s: of one image alone on an idle machine, median, seconds.
        decode_s: decoding and preparing of it, median, seconds.
        run_s: the session's part, median, seconds.
        cpu_s: CPU time an image, seconds.
    """

    images_per_s: float
    image_s: float
    decode_s: float
    run_s: float
    cpu_s: float


def measure(model: Path, photos: list[bytes], seconds: float, threads: int = 0) -> Ceiling:
    """Measure one image alone, then as many threads as cores.

    Args:
        model: an ONNX file with the graph contract.
        photos: encoded images, taken in turn.
        seconds: for each of the two measurements.
        threads: 0 for one a core.
    """
    return_large_blocks()
    engine = OnnxEngine(model, Settings(device="cpu"))
    engine.warm_up()
    work = _Work(engine, photos)
    for _ in range(3):
        work.one(0)
    alone = _alone(work, seconds)
    decode_s, run_s = (float(np.median(column)) for column in zip(*alone, strict=True))
    image_s = float(np.median([decode + run for decode, run in alone]))
    cpu_started = time.process_time()
    images, elapsed = _together(work, seconds, threads or usable_cores())
    cpu_s = (time.process_time() - cpu_started) / images
    return Ceiling(images / elapsed, image_s, decode_s, run_s, cpu_s)


class _Work:
    def __init__(self, engine: OnnxEngine, photos: list[bytes]) -> None:
        self._session: Any = engine._session
        self._resize = engine.manifest.resize
        self._photos = photos
        self._question = Question.about(engine.manifest)

    def one(self, index: int) -> tuple[float, float]:
        """Take one image all the way; return the seconds of decoding and of the session."""
        began = time.perf_counter()
        photo = self._photos[index % len(self._photos)]
        pixels = prepare(decode_image(photo, min_side=self._resize.size), self._resize)
        decoded = time.perf_counter()
        self._session.run(None, self._question.feeds(pixels[np.newaxis]))
        return decoded - began, time.perf_counter() - decoded


def _alone(work: _Work, seconds: float) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        found.append(work.one(len(found)))
    return found


def _together(work: _Work, seconds: float, threads: int) -> tuple[int, float]:
    """Return the images that all threads finished, and the time until the last of them."""
    counts = [0] * threads
    started = time.perf_counter()

    def loop(thread: int) -> None:
        index = thread
        while time.perf_counter() - started < seconds:
            work.one(index)
            index += threads
            counts[thread] += 1

    running = [threading.Thread(target=loop, args=(thread,)) for thread in range(threads)]
    for one in running:
        one.start()
    for one in running:
        one.join()
    return sum(counts), time.perf_counter() - started


def main() -> int:
    """Measure what stdin asks for."""
    options = json.load(sys.stdin)
    photos = [Path(photo).read_bytes() for photo in options["photos"]]
    found = measure(Path(options["model"]), photos, options["seconds"], options.get("threads", 0))
    json.dump(found.__dict__, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
