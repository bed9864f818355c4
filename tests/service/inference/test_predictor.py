"""From bytes to a prediction: the same on CPU and GPU paths, no work in the event loop's thread."""

import asyncio
import resource
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.contract.manifest import Manifest
from model.photo.decode import decode_image, prepare
from service.errors import DeadlineExceeded, EmptyInput, UndecodableImage
from service.inference import predictor as predictor_module
from service.inference.engine import Images, OnnxEngine, Outputs, Question
from service.inference.predictor import KEPT_PIXELS, Prediction, Predictor
from service.inference.runtime import Runtime
from service.inference.sessions import CUDA
from service.settings import BUNDLED_MODEL, Settings
from tests.service.conftest import encoded
from tests.service.tiny_model import tiny_logits, tiny_manifest, tiny_model

pytestmark = pytest.mark.anyio

BEST = Question.about(tiny_manifest())


class BatchingEngine:
    """The tiny model as if it ran on a GPU; records its batches and their threads."""

    def __init__(self, data: bytes, settings: Settings) -> None:
        self._engine = OnnxEngine(data, settings)
        self.manifest: Manifest = self._engine.manifest
        self.provider = CUDA
        self.max_batch_size = settings.max_batch_size
        self.concurrency = 1
        self.threads: set[str] = set()
        self.batches: list[int] = []

    def run(self, images: Images, question: Question, *, alone: bool = False) -> Outputs:
        self.threads.add(threading.current_thread().name)
        self.batches.append(len(images))
        return self._engine.run(images, question)


@asynccontextmanager
async def predicting(folder: Path, load: Any = OnnxEngine, **options: Any) -> AsyncIterator[tuple[Predictor, Runtime]]:
    """Start a predictor of the tiny model, or of the one that `options` name."""
    path = folder / "tiny" / "1.onnx"
    path.parent.mkdir()
    path.write_bytes(tiny_model())
    runtime = Runtime(Settings(**{"model": folder, "device": "cpu", **options}), load=load)
    await runtime.start()
    await runtime.models.wait_ready()
    try:
        async with asyncio.timeout(60):
            yield runtime.predictor, runtime
    finally:
        await runtime.stop()


WAYS = pytest.mark.parametrize("load", [OnnxEngine, BatchingEngine], ids=["cpu", "batches"])


@WAYS
async def test_prediction_is_the_models_answer(tmp_path: Path, load: Any) -> None:
    """Bytes and prepared pixels give the graph's outputs, every map of its own target."""
    async with predicting(tmp_path, load) as (predictor, runtime):
        served, data = runtime.models.get(), encoded("teal", (20, 14))
        pixels = prepare(decode_image(data), served.manifest.resize)
        question = Question.about(served.manifest, (-1, 2, 0), (4, 0, 2))
        by_bytes = await predictor.predict(served, data, question)
        by_pixels = await predictor.predict_array(served, pixels, question)
        for prediction in (by_bytes, by_pixels):
            np.testing.assert_allclose(prediction.logits, tiny_logits(pixels[None])[0], atol=1e-5)
            assert ((4,), (3, 8, 8), (8, 8)) == (
                prediction.probabilities.shape,
                prediction.gradcam.shape,
                prediction.attention.shape if prediction.attention is not None else None,
            )
            assert [int(prediction.logits.argmax()), 2, 0] == prediction.explained.tolist()
        assert (20, 14) == (by_bytes.width, by_bytes.height)
        assert by_bytes.timings["decode"] > 0


@WAYS
async def test_a_second_question_is_about_the_same_pixels(
    tmp_path: Path, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The photo is decoded once; the prediction is of the second run, and says which question it answers."""
    decoded = []
    monkeypatch.setattr(predictor_module, "decode_image", lambda *a, **b: decoded.append(1) or decode_image(*a, **b))
    async with predicting(tmp_path, load) as (predictor, runtime):
        served, data = runtime.models.get(), encoded("teal", (20, 14))
        second = Question.about(served.manifest, (2, 0))
        seen: list[Outputs] = []

        def again(outputs: Outputs) -> Question:
            seen.append(outputs)
            return second

        prediction = await predictor.predict(served, data, BEST, again=again)
        assert ([1], second, [2, 0]) == (decoded, prediction.question, prediction.explained.tolist())
        assert [(1, 4)] == [outputs.logits.shape for outputs in seen]
        plain = await predictor.predict(served, data, BEST, again=lambda outputs: None)
        assert (BEST, [1]) == (plain.question, [len(plain.explained)])
        np.testing.assert_array_equal(plain.logits, prediction.logits)
        assert 3 == runtime.metrics.registry.get_sample_value("fieldmark_batch_images_count")


async def test_a_lone_photo_is_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One photo in hand is; two at the same time are not, whichever is decoded first."""
    noted, run, both = list[bool](), OnnxEngine.run, threading.Barrier(2)

    def noting(engine: OnnxEngine, images: Images, question: Question, *, alone: bool = False) -> Outputs:
        noted.append(alone)
        if len(noted) > 2:
            both.wait(30)
        return run(engine, images, question, alone=alone)

    async with predicting(tmp_path, cpu_runs=2) as (predictor, runtime):
        served, data = runtime.models.get(), encoded("teal", (20, 14))
        monkeypatch.setattr(OnnxEngine, "run", noting)
        await predictor.predict(served, data, BEST)
        await predictor.predict_array(served, prepare(decode_image(data), served.manifest.resize), BEST)
        await asyncio.gather(*(predictor.predict(served, data, BEST) for _ in range(2)))
        assert [True, True, False, False] == noted


@WAYS
async def test_work_leaves_the_loops_thread(tmp_path: Path, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding, preparing, running and rendering happen in threads of the pool, never in the event loop's."""
    seen: dict[str, set[str]] = {"decode": set(), "prepare": set(), "run": set(), "render": set()}

    def noting(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **options: Any) -> Any:
            seen[stage].add(threading.current_thread().name)
            return function(*arguments, **options)

        return noted

    monkeypatch.setattr(predictor_module, "decode_image", noting("decode", decode_image))
    monkeypatch.setattr(predictor_module, "prepare", noting("prepare", prepare))

    async with predicting(tmp_path, load) as (predictor, runtime):
        served = runtime.models.get()
        monkeypatch.setattr(served.engine, "run", noting("run", served.engine.run))
        await asyncio.gather(*(predictor.predict(served, encoded(), BEST) for _ in range(8)))
        prediction = await predictor.predict(served, encoded(), BEST)
        assert await predictor.render(prediction, noting("render", lambda number: number + 1), 1) == 2
        loop_thread = threading.current_thread().name
        assert all(threads and loop_thread not in threads for threads in seen.values())
        assert all(name.startswith("fieldmark-") for threads in seen.values() for name in threads)


async def test_a_gpu_runs_one_image_at_a_time(tmp_path: Path) -> None:
    """Without batches, too, its runs have the GPU's queue and no thread of the pool."""
    async with predicting(tmp_path, BatchingEngine, max_batch_size=1) as (predictor, runtime):
        served = runtime.models.get()
        await asyncio.gather(*(predictor.predict(served, encoded(), BEST) for _ in range(4)))
        engine = served.engine
        assert isinstance(engine, BatchingEngine)
        assert [1] * 4 == engine.batches[-4:]
        assert 1 == sum("gpu" in name for name in engine.threads)
        assert 0 == sum("cpu" in name for name in engine.threads)


async def test_batches_form_behind_a_busy_run(tmp_path: Path) -> None:
    """With a batching engine many images share few runs, and different numbers of targets never share one."""
    async with predicting(tmp_path, BatchingEngine) as (predictor, runtime):
        served = runtime.models.get()
        engine = served.engine
        assert isinstance(engine, BatchingEngine)
        engine.batches.clear()
        gate, inner = threading.Event(), engine.run

        def gated(*arguments: Any) -> Outputs:
            gate.wait(30)
            return inner(*arguments)

        engine.run = gated  # type: ignore[method-assign]
        best, both = Question.about(served.manifest), Question.about(served.manifest, (-1, -2))
        tasks = [asyncio.create_task(predictor.predict(served, encoded(), best)) for _ in range(5)]
        tasks += [asyncio.create_task(predictor.predict(served, encoded(), both)) for _ in range(3)]
        # The first run has at least one of them; all others wait for their run, decoded.
        while runtime.workers.cpu.waiting or len(runtime.workers.gpu._handed) + runtime.workers.gpu._queued < 8:
            await asyncio.sleep(0.001)
        gate.set()
        predictions = await asyncio.gather(*tasks)
        assert [1] * 5 + [2] * 3 == [len(prediction.explained) for prediction in predictions]
        assert 8 == sum(engine.batches)
        assert len(engine.batches) <= 3


@WAYS
async def test_three_hundred_good_beside_twenty_corrupt(tmp_path: Path, load: Any) -> None:
    """With 32 at a time, every good image is answered, and every corrupt one gets its typed error."""
    good, corrupt = encoded("green", image_format="JPEG"), encoded("green", (64, 64), image_format="JPEG")[:300]

    async with predicting(tmp_path, load) as (predictor, runtime):
        served, at_once = runtime.models.get(), asyncio.Semaphore(32)

        async def ask(data: bytes) -> Prediction:
            async with at_once:
                return await predictor.predict(served, data, BEST)

        photos = [corrupt if index % 16 == 5 else good for index in range(320)]
        answers = await asyncio.gather(*(ask(photo) for photo in photos), return_exceptions=True)
        assert 300 == sum(isinstance(answer, Prediction) for answer in answers)
        assert 20 == sum(isinstance(answer, UndecodableImage) for answer in answers)


@WAYS
async def test_deadline_and_empty_input(tmp_path: Path, load: Any) -> None:
    """A passed deadline costs no run; an empty body has an error of its own."""
    async with predicting(tmp_path, load) as (predictor, runtime):
        with pytest.raises(DeadlineExceeded):
            await predictor.predict(runtime.models.get(), encoded(), BEST, deadline=time.monotonic() - 1)
        with pytest.raises(EmptyInput):
            await predictor.predict(runtime.models.get(), b"", BEST)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
async def test_large_images_are_not_kept(tmp_path: Path, image_format: str) -> None:
    """A kept image has few pixels; drawing gets all of them, and both have the same geometry."""
    data = encoded("navy", (2001, 1501), image_format)

    async with predicting(tmp_path) as (predictor, runtime):
        prediction = await predictor.predict(runtime.models.get(), data, BEST, keep_image=True)
        kept = prediction.image
        assert kept is not None
        assert (2001, 1501) == (kept.width, kept.height) == (prediction.width, prediction.height)
        assert kept.image.width * kept.image.height <= KEPT_PIXELS
        assert abs(kept.image.width * kept.scale - kept.width) <= kept.scale
        full = prediction.image_of(2001)
        assert ((2001, 1501), 1) == (full.image.size, full.scale)
        only_asked = await predictor.predict(runtime.models.get(), data, BEST)
        assert (None, 2001, 1501) == (only_asked.image, only_asked.width, only_asked.height)
        assert (2001, 1501) == only_asked.image_of(0).image.size


async def test_the_next_image_takes_the_memory_of_the_last(tmp_path: Path) -> None:
    """Pixels returned to the system, or freed in another thread, cost a page fault for every 4 kB."""
    data = encoded("navy", (640, 480), "JPEG")
    images = 40

    async with predicting(tmp_path, model=BUNDLED_MODEL) as (predictor, runtime):
        served = runtime.models.get()

        question = Question.about(served.manifest)

        async def ask() -> int:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(0, images, 8):
                await asyncio.gather(*(predictor.predict(served, data, question) for _ in range(8)))
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        assert min([await ask() for _ in range(4)]) < 10 * images


async def test_stages_are_measured(tmp_path: Path) -> None:
    """Each stage of an image, its format and its batch are counted once."""
    async with predicting(tmp_path) as (predictor, runtime):
        prediction = await predictor.predict(runtime.models.get(), encoded(), BEST)
        await predictor.render(prediction, len, b"abc")
        assert {"decode", "queue", "infer", "render"} == set(prediction.timings)
        page = runtime.metrics.exposition(None)[0].decode()
        for stage in ("decode", "queue", "infer", "render"):
            assert f'fieldmark_stage_duration_seconds_count{{stage="{stage}"}} 1.0' in page
        assert "fieldmark_batch_images_count 1.0" in page
        assert 'fieldmark_images_decoded_total{format="png"} 1.0' in page
