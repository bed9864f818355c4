"""The engine on a tiny real ONNX model: outputs, padding, a lost GPU."""

from typing import Any

import numpy as np
import pytest

from model.contract.graph import OUTPUTS
from model.contract.manifest import synthetic_images
from service.inference import engine as engine_module
from service.inference.batcher import WorkerLost
from service.inference.engine import OnnxEngine, Outputs, Question, collect, may_pass, padded_size, padded_sizes
from service.inference.sessions import CPU, CUDA, ModelRejected
from service.settings import Settings
from tests.service.inference.conftest import ON_CPU
from tests.service.tiny_model import (
    LABELS,
    NO_MARK,
    SIDE,
    TABLE,
    marked_manifest,
    tiny_logits,
    tiny_manifest,
    tiny_model,
)


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


def test_marks_are_answered_with_their_maps() -> None:
    """A model with marks is always asked for eight: those requested, by index or rank, then none, whose map is NaN."""
    manifest = marked_manifest()
    engine = OnnxEngine(tiny_model(manifest), ON_CPU)
    image = np.zeros((1, SIDE, SIDE, 3), dtype=np.uint8)
    image[0, 2, 5] = 255, 0, 0
    outputs = engine.run(image, Question.about(manifest, (0,), marks=(3, -1)))
    assert outputs.marked is not None
    assert outputs.marks is not None
    assert outputs.mark_maps is not None
    best = int((outputs.marks[0] * TABLE[0]).argmax())
    assert [3, best, *[NO_MARK] * 6] == outputs.marked[0].tolist()
    assert (2, 5) == np.unravel_index(outputs.mark_maps[0, 0].argmax(), (SIDE, SIDE))
    assert [False] * 2 + [True] * 6 == np.isnan(outputs.mark_maps[0]).all(axis=(1, 2)).tolist()
    assert ((1, 3), (1,)) == tuple(
        values.shape for values in (outputs.embedding, outputs.novelty) if values is not None
    )


def test_a_model_without_marks_is_asked_for_none() -> None:
    """Questions to version 1 have no codes of marks, and its answers nothing of version 2."""
    question = Question.about(tiny_manifest(), marks=(1,))
    assert question.mark is None
    assert {"image", "target", "versus", "layer"} == set(question.feeds(synthetic_images(1, 1, SIDE)))


def test_questions_about_marks_share_a_batch_and_its_padding() -> None:
    """Requests for other marks, or for none, have one kind; a padded batch answers as each image alone."""
    manifest = marked_manifest()
    engine = OnnxEngine(tiny_model(manifest), ON_CPU)
    questions = [Question.about(manifest, marks=marks) for marks in ((), (2,), (-1, -2))]
    assert 1 == len({question.kind for question in questions})
    batch = Question.batch(questions).padded(4, len(LABELS))
    images = synthetic_images(5, 4, SIDE)
    together = collect(OUTPUTS, engine._sessions[1].run(list(OUTPUTS), batch.feeds(images)))
    for index, question in enumerate(questions):
        alone = engine.run(images[index : index + 1], question)
        for name, values in alone.present().items():
            np.testing.assert_allclose(values, together.rows(3).image(index).present()[name], atol=1e-6, err_msg=name)


def test_one_image_of_a_batch_is_a_copy() -> None:
    """An answer does not keep its whole batch in memory."""
    values = np.zeros((4, 2), dtype=np.float32)
    outputs = Outputs(values, values, values[:, None, None], np.zeros((4, 1), dtype=np.int64))
    assert outputs.image(2).logits.base is None
    assert (1, 2) == outputs.image(2).logits.shape


class Recording:
    """A session that notes its runs and the batch sizes of these."""

    def __init__(self, session: Any) -> None:
        self.session, self.seen, self.runs = session, set[int](), 0

    def run(self, outputs: list[str], inputs: dict[str, Any]) -> Any:
        """Run the session."""
        self.seen.add(len(inputs["image"]))
        self.runs += 1
        return self.session.run(outputs, inputs)


@pytest.mark.parametrize("model", [tiny_model(), tiny_model(marked_manifest())], ids=["version 1", "version 2"])
def test_every_batch_size_has_its_session(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA: padded batches give the plain answers, and no session ever sees a second size."""
    one_by_one = OnnxEngine(model, ON_CPU)
    monkeypatch.setattr(engine_module, "CUDA", CPU)
    engine = OnnxEngine(model, Settings(device="cpu", max_batch_size=4))
    engine._sessions = {size: Recording(session) for size, session in engine._sessions.items()}
    engine.warm_up()
    for count in (4, 3, 1, 2, 3):
        images = synthetic_images(5, count, SIDE)
        question = Question.about(engine.manifest, (-1, 0), marks=(2, -1)).repeated(count)
        padded, plain = engine.run(images, question).present(), one_by_one.run(images, question).present()
        assert plain.keys() == padded.keys()
        for name, values in plain.items():
            np.testing.assert_allclose(padded[name], values, atol=1e-6, err_msg=name)
    assert {1: {1}, 2: {2}, 4: {4}} == {size: session.seen for size, session in engine._sessions.items()}


@pytest.mark.parametrize(("run_s", "kept"), [(0.5, True), (0.95, False), (2.0, False)])
def test_a_run_alone_gets_all_cores_where_these_are_faster(run_s: float, kept: bool) -> None:
    """The second session stays where its runs are shorter by enough, and answers those that are alone, likewise."""
    engine = OnnxEngine(tiny_model(), Settings(device="cpu", cpu_runs=2))
    one, all_cores = Recording(engine._sessions[1]), Recording(engine._alone)
    assert [1, 2] == [each.session.get_session_options().intra_op_num_threads for each in (one, all_cores)]
    engine._sessions[1], engine._alone = one, all_cores
    engine.warm_up(clock=lambda: one.runs + run_s * all_cores.runs)
    before = one.runs, all_cores.runs
    images, question = ask(1, -1)
    plain, alone = (engine.run(images, question, alone=each) for each in (False, True))
    assert (before[0] + 2 - kept, before[1] + kept) == (one.runs, all_cores.runs)
    np.testing.assert_allclose(plain.logits, alone.logits, atol=1e-6)


def test_what_takes_a_place_takes_all_cores_as_before() -> None:
    """It is loaded while requests run, and what would be measured then is these; where none did, it is measured."""
    settings = Settings(device="cpu", cpu_runs=2)
    for kept in (True, False):
        before, engine = (OnnxEngine(tiny_model(), settings) for _ in range(2))
        if not kept:
            before._alone = None
        one, all_cores = Recording(engine._sessions[1]), Recording(engine._alone)
        engine._sessions[1], engine._alone = one, all_cores
        engine.take_all_cores_as(before)
        engine.warm_up(clock=lambda one=one, all_cores=all_cores: one.runs + 2 * all_cores.runs)
        assert engine.takes_all_cores is kept
        assert (all_cores.runs == 1) is kept


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (WorkerLost("the GPU failed"), True),
        (MemoryError(), True),
        (RuntimeError("Failed to allocate memory for requested buffer of size 4096"), True),
        (ModelRejected("the self-check is off"), False),
        (ValueError(), False),
    ],
)
def test_which_faults_may_pass(error: Exception, passes: bool) -> None:
    """The GPU's and memory's, also as the reason of a refusal; not the file's."""
    refused = ModelRejected("it does not load")
    refused.__cause__ = error
    assert [passes] * 2 == [may_pass(each) for each in (error, refused)]


def test_one_run_at_a_time_has_one_session() -> None:
    """Where one core is to be used, and where a command asks few photos, there is no second session."""
    assert OnnxEngine(tiny_model(), Settings(device="cpu", cpu_runs=1))._alone is None
    assert OnnxEngine(tiny_model(), Settings(device="cpu", cpu_runs=2), all_cores=False)._alone is None


@pytest.mark.parametrize(("largest", "sizes"), [(1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])])
def test_padded_sizes(largest: int, sizes: list[int]) -> None:
    """Batches are padded to powers of two, and to the largest."""
    assert sizes == padded_sizes(largest)
    assert largest == padded_size(largest, largest)
    assert [1, min(2, largest), min(4, largest)] == [padded_size(min(count, largest), largest) for count in (1, 2, 3)]


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
    engine._sessions = {1: Failing()}
    with pytest.raises(expected):
        engine.run(*ask(1, -1))
