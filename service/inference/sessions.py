"""ONNX Runtime's sessions behind the graph contract: providers, options, and what a file must hold.

Every option prevents a known fault: the provider is checked *after* the session exists, because ONNX Runtime falls
back silently; threads are set, because it ignores container limits; they spin for half a millisecond at most, because
idle threads would burn the cores that decode; telemetry is off.

Source: onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html, .../performance/tune-performance.
"""

import contextlib
import logging
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from model.contract.graph import INPUTS
from model.contract.manifest import Manifest, ManifestError
from service.inference.files.external_data import MalformedFile, has_external_data
from service.settings import Settings

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
SPIN_US = 500
"""How long the threads of a run wait for its next operator without sleeping. Asleep they would gain nothing: two of
them took 14.0 ms a run, one took 13.6, and two that spin 7.8 (bundled model, two cores, ONNX Runtime 1.32)."""
_ONLY_ERRORS = 3

logger = logging.getLogger(__name__)


class ModelRejected(Exception):
    """A model cannot be served; the message says why, for the operator."""


def open_session(data: bytes, settings: Settings, *, known: bool = False, threads: int = 1) -> tuple[Any, Manifest]:
    """Return a session of an ONNX file that keeps the graph contract, and the file's manifest.

    Args:
        data: content of the file.
        settings: device and memory.
        known: whether this content was searched for external data before.
        threads: of one run on the CPU.

    Raises:
        ModelRejected: no runtime, no GPU though `device=cuda`, or not a file with the graph contract.
    """
    if not known:
        _refuse_external_data(data)
    session = _create_session(data, settings, threads)
    manifest = _read_manifest(session)
    check_graph(session, manifest)
    return session, manifest


def check_graph(session: Any, manifest: Manifest) -> None:
    """Compare a session's inputs and outputs with the graph contract and the manifest.

    Raises:
        ModelRejected: they disagree; the message names the first difference.
    """
    inputs = {node.name: node for node in session.get_inputs()}
    if sorted(inputs) != sorted(manifest.inputs):
        raise ModelRejected(f"the graph's inputs are {sorted(inputs)}, not {sorted(manifest.inputs)}")
    for name, kind in ((name, f"tensor({INPUTS[name].dtype})") for name in manifest.inputs):
        if inputs[name].type != kind:
            raise ModelRejected(f"input `{name}` is a {inputs[name].type}, not a {kind}")
    size = manifest.input_size
    shape = inputs["image"].shape
    if len(shape) != 4 or isinstance(shape[0], int) or list(shape[1:]) != [size, size, 3]:
        raise ModelRejected(f"input `image` is {shape}, not [N, {size}, {size}, 3] with a free N")
    outputs = {node.name: node for node in session.get_outputs()}
    if missing := [name for name in manifest.outputs if name not in outputs]:
        raise ModelRejected(f"the graph lacks the outputs {missing}")
    counts = {"logits": (manifest.num_classes, "classes")}
    if manifest.marks is not None:
        counts["marks"] = (manifest.marks.num_marks, "marks")
    if manifest.embedding is not None:
        counts["embedding"] = (manifest.embedding.size, "values of the embedding")
    for name, (expected, what) in counts.items():
        found = outputs[name].shape[-1]
        if isinstance(found, int) and found != expected:
            raise ModelRejected(f"the graph has {found} {what}, its manifest {expected}")


def runtime() -> ModuleType:
    """Return ONNX Runtime with its telemetry off.

    Raises:
        ModelRejected: neither package is installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelRejected(
            "ONNX Runtime is not installed: `pip install 'fieldmark[cpu]'`, or `'fieldmark[gpu]'` for CUDA (never both)"
        ) from error
    if hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    _warn_of_both()
    return onnxruntime  # type: ignore[no-any-return]


def wants_cuda(settings: Settings) -> bool:
    """Return whether sessions should run on CUDA.

    Raises:
        ModelRejected: `device=cuda` with a runtime that has no CUDA provider.
    """
    if settings.device == "cpu":
        return False
    available = CUDA in runtime().get_available_providers()
    if settings.device == "cuda" and not available:
        raise ModelRejected("device=cuda, but the installed ONNX Runtime has no CUDA: install `fieldmark[gpu]`")
    return available


@cache
def _warn_of_both() -> None:
    """Warn once if both runtimes are installed: they overwrite each other's files."""
    with contextlib.suppress(PackageNotFoundError):
        names = (version("onnxruntime"), version("onnxruntime-gpu"))
        logger.warning("onnxruntime %s and onnxruntime-gpu %s are both installed: uninstall both, then one", *names)


def read_file(path: Path) -> bytes:
    """Return a model file's content.

    Raises:
        ModelRejected: it cannot be read; the message holds no folder, since clients may see it.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelRejected(f"{path.name} cannot be read: {error.strerror}") from error


def _refuse_external_data(data: bytes) -> None:
    try:
        outside = has_external_data(data)
    except MalformedFile as error:
        raise ModelRejected(f"not an ONNX file, or a truncated one: {error}") from error
    if outside:
        raise ModelRejected("the file keeps weights outside itself; export it as one file")


def _create_session(data: bytes, settings: Settings, threads: int) -> Any:
    ort = runtime()
    providers: list[Any] = [CPU]
    if wants_cuda(settings):
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        providers.insert(0, (CUDA, cuda_options(settings)))
    try:
        session = ort.InferenceSession(data, session_options(ort, threads), providers=providers)
    except Exception as error:
        # The binding raises its own classes, one a status code, without a common root.
        raise ModelRejected(f"ONNX Runtime cannot load the file: {error}") from error
    if CUDA not in session.get_providers():
        if settings.device == "cuda":
            raise ModelRejected("device=cuda, but ONNX Runtime could not use the GPU (driver, CUDA or cuDNN)")
        if settings.device == "auto" and len(providers) > 1:
            logger.error("ONNX Runtime could not use the GPU (driver, CUDA or cuDNN): RUNNING ON THE CPU, far slower")
    return session


def session_options(ort: ModuleType, threads: int = 1) -> Any:
    """Return the session options of every engine: so many threads a run, only errors logged."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _ONLY_ERRORS
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def cuda_options(settings: Settings) -> dict[str, str]:
    """Return the options of the CUDA provider.

    `HEURISTIC`: an exhaustive search would run anew for every new shape. `kSameAsRequested`: the arena grows by
    the requested size, not by doubling. TF32 off by default: the served maps equal the reference ones to 1e-4.
    """
    options = {
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "1" if settings.gpu_tf32 else "0",
    }
    if settings.gpu_memory_limit_bytes:
        options["gpu_mem_limit"] = str(settings.gpu_memory_limit_bytes)
    return options


def _read_manifest(session: Any) -> Manifest:
    try:
        return Manifest.from_metadata(session.get_modelmeta().custom_metadata_map)
    except ManifestError as error:
        raise ModelRejected(str(error)) from error
