"""Sessions of ONNX Runtime: files that are refused, providers, options."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from model.contract.marks import write_table
from service.inference import sessions as sessions_module
from service.inference.engine import OnnxEngine
from service.inference.sessions import CPU, CUDA, ModelRejected, cuda_options, runtime, session_options, wants_cuda
from service.settings import Settings
from tests.service.inference.conftest import ON_CPU
from tests.service.tiny_model import LABELS, MARKS, TABLE, marked_manifest, tiny_manifest, tiny_model


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
    with pytest.raises(ModelRejected, match="4 classes, its manifest 5"):
        OnnxEngine(tiny_model(tiny_manifest(labels=(*LABELS, "One more"))), ON_CPU)


def test_marks_must_fit_the_graph() -> None:
    """The manifest lists as many marks as the graph answers."""
    fewer = marked_manifest(marks=MARKS[:-1], table=write_table(TABLE[:, :-1]))
    with pytest.raises(ModelRejected, match="5 marks, its manifest 4"):
        OnnxEngine(tiny_model(fewer), ON_CPU)


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
