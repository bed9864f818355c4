"""The engine on a real CUDA device; skipped, saying so, where there is none."""

import numpy as np
import pytest

from model.contract.manifest import synthetic_images
from service.inference.engine import OnnxEngine, Question, padded_sizes
from service.inference.sessions import CUDA, runtime
from service.inference.verify import self_check
from service.inference.workers import GpuWork, run_batch
from service.settings import BUNDLED_MODEL, Settings

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def engines() -> tuple[OnnxEngine, OnnxEngine]:
    """Return the bundled model on CUDA, warm, and on the CPU."""
    if CUDA not in runtime().get_available_providers():
        pytest.skip("no CUDA here: this ONNX Runtime has no CUDA provider")
    model = next(iter(sorted(BUNDLED_MODEL.glob("*/?.onnx"))))
    on_gpu = OnnxEngine(model, Settings(device="cuda", max_batch_size=8))
    on_gpu.warm_up()
    return on_gpu, OnnxEngine(model, Settings(device="cpu"))


def test_device_is_verified(engines: tuple[OnnxEngine, OnnxEngine]) -> None:
    """The requested device runs, one batch at a time."""
    assert (CUDA, 8, 1) == (engines[0].provider, engines[0].max_batch_size, engines[0].concurrency)
    self_check(engines[0])


@pytest.mark.parametrize("count", [1, 3, 8])
def test_cuda_equals_the_cpu(engines: tuple[OnnxEngine, OnnxEngine], count: int) -> None:
    """With TF32 off, padded batches on CUDA give the CPU's classes and maps."""
    on_gpu, on_cpu = engines
    images = synthetic_images(9, count, on_cpu.manifest.input_size)
    question = Question.about(on_cpu.manifest, (-1, -2, 0)).repeated(count)
    one, other = on_gpu.run(images, question), on_cpu.run(images, question)
    np.testing.assert_array_equal(one.explained[:, 2], other.explained[:, 2])
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-3)
    scale = np.maximum(other.gradcam.max(axis=(2, 3), keepdims=True), 1e-12)
    np.testing.assert_allclose(one.gradcam / scale, other.gradcam / scale, atol=1e-3)


def test_batches_of_the_queue(engines: tuple[OnnxEngine, OnnxEngine]) -> None:
    """Members of a batch get their own answers, whatever the padding."""
    on_gpu, on_cpu = engines
    images = synthetic_images(4, 5, on_cpu.manifest.input_size)
    question = Question.about(on_cpu.manifest)
    answers = run_batch([GpuWork(on_gpu, image, question) for image in images])
    expected = on_cpu.run(images, question.repeated(5))
    np.testing.assert_allclose(np.concatenate([answer.logits for answer in answers]), expected.logits, atol=1e-2)
    assert [1, 2, 4, 8] == padded_sizes(on_gpu.max_batch_size)
