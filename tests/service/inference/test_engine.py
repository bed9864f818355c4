"""The engine on a tiny real ONNX model: outputs, padding, a lost GPU."""

import numpy as np
import pytest

from model.contract.manifest import synthetic_images
from service.inference.batcher import WorkerLost
from service.inference.engine import OnnxEngine, Outputs, Question, collect, padded_size, padded_sizes
from service.inference.sessions import CPU, CUDA
from service.inference.staging import Staging
from tests.service.inference.conftest import ON_CPU
from tests.service.tiny_model import NONE, SIDE, tiny_logits, tiny_manifest, tiny_model


def ask(count: int, *codes: int) -> tuple[np.ndarray, Question]:
    """Return images, and a question about them without contrast."""
    return synthetic_images(5, count, SIDE), Question.about(tiny_manifest(), codes).repeated(count)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_run_answers_every_image(tiny: OnnxEngine, count: int) -> None:
    """A run returns logits, probabilities, maps and explained classes for each image and target."""
    images, question = ask(count, -1, 2)
    outputs = tiny.run(images, question)
    np.testing.assert_allclose(outputs.logits, tiny_logits(images), atol=1e-5)
    np.testing.assert_allclose(outputs.probabilities.sum(axis=1), 1, atol=1e-5)
    assert outputs.attention is not None
    assert ((count, SIDE, SIDE), (count, 2, SIDE, SIDE)) == (outputs.attention.shape, outputs.gradcam.shape)
    expected = np.stack([tiny_logits(images).argmax(axis=1), np.full(count, 2)], axis=1)
    np.testing.assert_array_equal(outputs.explained, expected)


def test_run_takes_a_list_of_images(tiny: OnnxEngine) -> None:
    """A batch may be a list of images, as the queue passes it."""
    images, question = ask(3, -1)
    np.testing.assert_array_equal(tiny.run(list(images), question).logits, tiny.run(images, question).logits)


def test_cpu_runs_have_one_image_and_the_configured_number(tiny: OnnxEngine) -> None:
    """Without a GPU a run holds one image, and there are as many runs as cores or as set."""
    assert (CPU, 1, 3) == (tiny.provider, tiny.max_batch_size, tiny.concurrency)


def test_one_image_of_a_batch_is_a_copy() -> None:
    """An answer does not keep its whole batch in memory."""
    values = np.zeros((4, 2), dtype=np.float32)
    outputs = Outputs(values, values, None, values[:, None, None], np.zeros((4, 1), dtype=np.int64))
    assert outputs.image(2).logits.base is None
    assert (1, 2) == outputs.image(2).logits.shape


def test_staging_pads_and_drops_the_padding(tiny: OnnxEngine) -> None:
    """A batch padded to a larger size, again with leftovers of an earlier one, gives the same answers."""
    staging = Staging(tiny._session, SIDE, tiny._outputs, device="cpu")
    for count in (4, 3, 1):
        images, question = ask(count, -1, 0)
        fetched = staging.run(question.padded(4, NONE).feeds(images), 4)
        padded = collect(tiny._outputs, fetched).rows(count)
        plain = tiny.run(images, question)
        np.testing.assert_allclose(padded.logits, plain.logits, atol=1e-6)
        np.testing.assert_allclose(padded.gradcam, plain.gradcam, atol=1e-6)
        np.testing.assert_array_equal(padded.explained, plain.explained)


@pytest.mark.parametrize(("largest", "sizes"), [(1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])])
def test_padded_sizes(largest: int, sizes: list[int]) -> None:
    """Batches are padded to powers of two, and to the largest."""
    assert sizes == padded_sizes(largest)
    assert [3 if largest < 3 else 4, largest] == [padded_size(3, largest), padded_size(largest, largest)]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("CUDA failure 700: an illegal memory access was encountered", WorkerLost),
        ("CUDA failure 2: out of memory", RuntimeError),
        ("Non-zero status code returned while running Gather", RuntimeError),
    ],
)
def test_lost_gpu_is_distinguished_from_a_failing_batch(message: str, expected: type[Exception]) -> None:
    """A lost GPU fails the worker; too little memory, or a bad batch, fails the batch only."""

    class Failing:
        def run(self, *_: object) -> None:
            raise RuntimeError(message)

    engine = OnnxEngine(tiny_model(), ON_CPU)
    engine.provider = CUDA
    engine._session = Failing()
    with pytest.raises(expected):
        engine.run(*ask(1, -1))
