"""The queues of a process: their threads, and batches of images."""

import numpy as np
import pytest

from model.contract.manifest import synthetic_images
from service.inference.cpus import usable_cores
from service.inference.engine import OnnxEngine, Question
from service.inference.sessions import CUDA, runtime
from service.inference.workers import GpuWork, num_parallel, num_threads, run_batch
from service.settings import Settings
from tests.service.tiny_model import SIDE, tiny_manifest


def test_threads_are_a_setting_or_the_cores() -> None:
    """Without a GPU the setting of the CPU's runs counts, and that of the decoders does not."""
    assert usable_cores() == num_threads(Settings(device="cpu", decode_threads=3))
    assert 5 == num_threads(Settings(device="cpu", cpu_runs=5)) == num_parallel(Settings(device="cpu", cpu_runs=5))


@pytest.mark.skipif(CUDA not in runtime().get_available_providers(), reason="no CUDA here")
def test_beside_a_gpu_threads_decode() -> None:
    """A GPU takes a batch at a time; the pool beside it has its own setting."""
    settings = Settings(device="cuda", decode_threads=3, cpu_runs=5, max_batch_size=16)
    assert (3, 16) == (num_threads(settings), num_parallel(settings))


def test_a_batch_gives_each_image_its_own_answer(tiny: OnnxEngine) -> None:
    """Questions of one kind are put together, answers are taken apart."""
    images = synthetic_images(5, 3, SIDE)
    works = [
        GpuWork(tiny, image, Question.about(tiny_manifest(), (code,)))
        for image, code in zip(images, (2, -1, 0), strict=True)
    ]
    assert 1 == len({work.key for work in works})
    answers = run_batch(works)
    for work, answer in zip(works, answers, strict=True):
        alone = tiny.run(work.image[np.newaxis], work.question)
        np.testing.assert_allclose(answer.gradcam, alone.gradcam, atol=1e-6)
        np.testing.assert_array_equal(answer.explained, alone.explained)


def test_other_kinds_of_work_share_no_batch(tiny: OnnxEngine) -> None:
    """Another number of targets, another layer or another model is another key."""
    image, manifest = synthetic_images(5, 1, SIDE)[0], tiny_manifest()
    questions = [Question.about(manifest), Question.about(manifest, (-1, -2)), Question.about(manifest, layer=1)]
    keys = {GpuWork(tiny, image, question).key for question in questions}
    assert 3 == len(keys)
