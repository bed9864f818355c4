"""The engine on a tiny real ONNX model: outputs, refusals, fallback to the CPU."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from model.contract.manifest import Layer, Manifest, synthetic_images
from service.inference import sessions as sessions_module
from service.inference.batcher import WorkerLost
from service.inference.engine import OnnxEngine, Outputs, Question, collect, padded_size, padded_sizes
from service.inference.sessions import CPU, CUDA, ModelRejected, cuda_options, runtime, session_options, wants_cuda
from service.inference.staging import Staging
from service.inference.verify import check_layers, self_check
from service.settings import BUNDLED_MODEL, Settings
from tests.service.tiny_model import LABELS, NONE, SIDE, tiny_logits, tiny_manifest, tiny_model, tiny_self_check

ON_CPU = Settings(device="cpu", cpu_runs=3)


@pytest.fixture(scope="module")
def tiny() -> OnnxEngine:
    """Return a warm engine of the tiny model."""
    engine = OnnxEngine(tiny_model(), ON_CPU)
    engine.warm_up()
    return engine


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


def test_self_check_passes_and_fails(tiny: OnnxEngine) -> None:
    """The logits of the manifest distinguish a model that computes as exported from one that does not."""
    self_check(tiny)
    wrong = OnnxEngine(tiny_model(tiny_manifest(self_check=tiny_self_check(offset=0.5))), ON_CPU)
    with pytest.raises(ModelRejected, match=r"off by 0\.5"):
        self_check(wrong)


def test_self_check_refuses_numbers_that_are_not_finite() -> None:
    """A model that returns NaN is refused."""
    broken = OnnxEngine(tiny_model(tiny_manifest(), weights=np.full((3, 4), np.nan, dtype=np.float32)), ON_CPU)
    with pytest.raises(ModelRejected, match="not finite"):
        self_check(broken)


def bundled(edit: Callable[[onnx.ModelProto, list[Layer]], None]) -> OnnxEngine:
    """Return an engine of the bundled model with its graph, or the layers that its manifest lists, edited."""
    model = onnx.load(next(iter(sorted(BUNDLED_MODEL.glob("*/*.onnx")))))
    manifest = Manifest.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    layers = list(manifest.layers)
    edit(model, layers)
    onnx.helper.set_model_props(model, manifest.model_copy(update={"layers": tuple(layers)}).to_metadata())
    return OnnxEngine(model.SerializeToString(), ON_CPU)


def another_shape(_: onnx.ModelProto, layers: list[Layer]) -> None:
    """State another shape of the third layer."""
    layers[2] = layers[2].model_copy(update={"grid": (18, 18)})


def exchanged(_: onnx.ModelProto, layers: list[Layer]) -> None:
    """List two layers in the wrong order."""
    layers[3], layers[4] = layers[4], layers[3]


def one_too_many(_: onnx.ModelProto, layers: list[Layer]) -> None:
    """List one more layer, in the shape of the last stage, which the graph falls back to."""
    layers.append(layers[0].model_copy(update={"name": "features.0"}))


def one_too_few(_: onnx.ModelProto, layers: list[Layer]) -> None:
    """Forget the earliest layer."""
    layers.pop()


def parts(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside its nodes."""
    yield graph
    for attribute in (attribute for node in graph.node for attribute in node.attribute if attribute.HasField("g")):
        yield from parts(attribute.g)


def branch_of_features_6(model: onnx.ModelProto) -> onnx.GraphProto:
    """Return the part of the bundled graph that computes the map of `features.6`."""
    (branch,) = (part for part in parts(model.graph) if part.name == "layer2")
    return branch


def failing_branch(model: onnx.ModelProto, _: list[Layer]) -> None:
    """Make the map of `features.6` fail by an impossible shape."""
    (rows,) = (node for node in branch_of_features_6(model).node if node.output[0] == "layer2/rows")
    rows.attribute[0].ints[:] = [-1, 31, 36, 36]


def branch_without_numbers(model: onnx.ModelProto, _: list[Layer]) -> None:
    """Take the root of a negative map of `features.6`."""
    branch = branch_of_features_6(model)
    (end,) = branch.output
    chain = [("Exp", end.name, "positive"), ("Neg", "positive", "negative"), ("Sqrt", "negative", "root")]
    branch.node.extend(onnx.helper.make_node(kind, [source], [result]) for kind, source, result in chain)
    end.name = "root"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (another_shape, r"`features\.6` has the shape \(36, 36\), not \(18, 18\)"),
        (exchanged, r"`features\.1` has the shape"),
        (one_too_many, r"lists the layer `features\.0`, the graph has only 5"),
        (one_too_few, "more layers than the 4"),
        (failing_branch, r"the graph fails at layer `features\.6`"),
        (branch_without_numbers, r"`features\.6` has numbers that are not finite"),
    ],
)
def test_layers_must_be_those_of_the_manifest(
    edit: Callable[[onnx.ModelProto, list[Layer]], None], message: str
) -> None:
    """A layer that the graph lacks, fails at, or computes in another shape is reported by name before any request."""
    engine = bundled(edit)
    self_check(engine)
    with pytest.raises(ModelRejected, match=message):
        check_layers(engine)


def test_layers_of_the_manifest_are_checked(tiny: OnnxEngine) -> None:
    """A model of one layer, and the bundled one of several, keep what their manifests state."""
    check_layers(tiny)
    check_layers(bundled(lambda model, layers: None))


def test_lost_gpu_is_no_fault_of_a_layer() -> None:
    """If the GPU is lost during the check, this is reported, and not a bad model."""

    class Lost(OnnxEngine):
        def run(self, *_: object) -> Outputs:
            raise WorkerLost("the GPU failed")

    with pytest.raises(WorkerLost):
        check_layers(Lost(tiny_model(), ON_CPU))


def rename_input(model: onnx.ModelProto) -> None:
    """Call `layer` something else."""
    model.graph.input[3].name = "depth"
    model.graph.node[4].input[0] = "depth"


def retype_target(model: onnx.ModelProto) -> None:
    """Make `target` 32 bits wide."""
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT32
    cast = onnx.helper.make_node("Cast", ["target"], ["target_wide"], to=onnx.TensorProto.INT64)
    for node in model.graph.node:
        node.input[:] = ["target_wide" if name == "target" else name for name in node.input]
    model.graph.node.insert(0, cast)


def freeze_batch(model: onnx.ModelProto) -> None:
    """Fix the batch at 3, as a careless export does."""
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3


def drop_gradcam(model: onnx.ModelProto) -> None:
    """Leave Grad-CAM out."""
    del model.graph.output[3]


def drop_manifest(model: onnx.ModelProto) -> None:
    """Leave the manifest out."""
    del model.metadata_props[:]


def move_weights_outside(model: onnx.ModelProto) -> None:
    """Point a weight at a file of the host."""
    tensor = model.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (rename_input, "inputs are"),
        (retype_target, "input `target` is a"),
        (freeze_batch, "free N"),
        (drop_gradcam, "lacks the outputs"),
        (drop_manifest, "no manifest"),
        (move_weights_outside, "weights outside itself"),
    ],
)
def test_files_without_the_contract_are_refused(edit: Callable[[onnx.ModelProto], None], message: str) -> None:
    """A file that violates the graph contract is refused before any request, and the message names the reason."""
    with pytest.raises(ModelRejected, match=message):
        OnnxEngine(tiny_model(edit=edit), ON_CPU)


def test_manifest_must_fit_the_graph() -> None:
    """Labels and classes must be equally many."""
    with pytest.raises(ModelRejected, match="4 classes, its manifest 5 labels"):
        OnnxEngine(tiny_model(tiny_manifest(labels=(*LABELS, "One more"))), ON_CPU)


@pytest.mark.parametrize("data", [b"\xff not a model", tiny_model()[:200], b"\x08\x07"])
def test_broken_files_are_refused(data: bytes) -> None:
    """Noise, truncated and empty models are refused as such."""
    with pytest.raises(ModelRejected):
        OnnxEngine(data, ON_CPU)


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    """The message names a missing file."""
    with pytest.raises(ModelRejected, match="cannot be read"):
        OnnxEngine(tmp_path / "none.onnx", ON_CPU)


def test_missing_runtime_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ONNX Runtime the message names both extras."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelRejected, match=r"fieldmark\[cpu\].*fieldmark\[gpu\]"):
        runtime()


def test_device_cuda_refuses_to_start_without_cuda() -> None:
    """`device=cuda` without CUDA is an error, not a fallback."""
    if CUDA in runtime().get_available_providers():
        pytest.skip("this runtime has CUDA")
    with pytest.raises(ModelRejected, match="device=cuda"):
        OnnxEngine(tiny_model(), Settings(device="cuda"))


class _BlindRuntime:
    """A runtime that lists CUDA and cannot use it, as on a host without a driver."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.preloaded = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_available_providers(self) -> list[str]:
        return [CUDA, CPU]

    def preload_dlls(self) -> None:
        self.preloaded = True

    def InferenceSession(self, data: bytes, options: Any, providers: list[Any]) -> Any:  # noqa: N802
        assert self.preloaded, "CUDA's libraries are loaded before the session"
        assert [CUDA, CPU] == [providers[0][0], providers[1]]
        return self._real.InferenceSession(data, options, providers=[CPU])


def test_fallback_to_the_cpu_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An unusable GPU is logged, and the provider is that of the CPU."""
    blind = _BlindRuntime(runtime())
    monkeypatch.setattr(sessions_module, "runtime", lambda: blind)
    engine = OnnxEngine(tiny_model(), Settings(device="auto"))
    assert engine.provider == CPU
    assert "RUNNING ON THE CPU" in caplog.text
    with pytest.raises(ModelRejected, match="could not use the GPU"):
        OnnxEngine(tiny_model(), Settings(device="cuda"))
    assert not wants_cuda(Settings(device="cpu"))


def test_sessions_have_one_thread_and_do_not_spin() -> None:
    """Idle threads must not burn the cores that decode."""
    options = session_options(runtime())
    assert (1, 1) == (options.intra_op_num_threads, options.inter_op_num_threads)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_cuda_options() -> None:
    """CUDA has its fixed options; TF32 and a memory limit are settings."""
    options = cuda_options(Settings())
    assert options == {
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",
    }
    limited = cuda_options(Settings(gpu_tf32=True, gpu_memory_limit_bytes=1 << 30))
    assert ("1", str(1 << 30)) == (limited["use_tf32"], limited["gpu_mem_limit"])


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
