"""The most that the machine can do: decode, prepare and the model on every core, without HTTP, queue or event loop.

`python -m service.commands.bench.ceiling` reads its options from stdin and writes images a second and seconds an
image to stdout, as JSON; a process of its own, so that neither a server nor a load generator shares it.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from model.photo.budget import return_large_blocks
from model.photo.decode import decode_image, prepare
from service.inference.cpus import usable_cores
from service.inference.engine import OnnxEngine, Question
from service.settings import Settings


@dataclass(frozen=True)
class Ceiling:
    """Measurements of the ceiling.

    Attributes:
        images_per_s: with a thread on every core.
        image_s: of one image alone on an idle machine, median, seconds.
        decode_s: decoding and preparing of it, median, seconds.
        run_s: the model's part, median, seconds.
        cpu_s: CPU time an image, seconds.
    """

    images_per_s: float
    image_s: float
    decode_s: float
    run_s: float
    cpu_s: float


def measure(model: Path, photos: list[bytes], seconds: float) -> Ceiling:
    """Measure one image alone, then as many threads as cores.

    Args:
        model: an ONNX file with the graph contract.
        photos: encoded images, taken in turn.
        seconds: for each of the two measurements.
    """
    return_large_blocks()
    engine = OnnxEngine(model, Settings(device="cpu"), all_cores=False)
    engine.warm_up()
    resize, question = engine.manifest.resize, Question.about(engine.manifest)

    def one(index: int) -> tuple[float, float]:
        """Take one image all the way; return the seconds of decoding and of the model."""
        began = time.perf_counter()
        pixels = prepare(decode_image(photos[index % len(photos)], min_side=resize.size), resize)
        decoded = time.perf_counter()
        engine.run(pixels[np.newaxis], question)
        return decoded - began, time.perf_counter() - decoded

    def run(first: int, step: int) -> list[tuple[float, float]]:
        """Take every `step`th image until the time is over."""
        found: list[tuple[float, float]] = []
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            found.append(one(first + step * len(found)))
        return found

    for _ in range(3):
        one(0)
    alone = np.array(run(0, 1))
    decode_s, run_s = np.median(alone, axis=0).tolist()
    threads = usable_cores()
    with ThreadPoolExecutor(threads) as pool:
        started, cpu_started = time.perf_counter(), time.process_time()
        images = sum(len(found) for found in pool.map(run, range(threads), [threads] * threads))
        elapsed, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    return Ceiling(images / elapsed, float(np.median(alone.sum(axis=1))), decode_s, run_s, cpu_s / images)


def main() -> int:
    """Measure by the options on stdin."""
    options = json.load(sys.stdin)
    photos = [Path(photo).read_bytes() for photo in options["photos"]]
    json.dump(asdict(measure(Path(options["model"]), photos, options["seconds"])), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
