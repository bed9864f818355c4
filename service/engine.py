"""ONNX Runtime behind the graph contract: sessions, providers, warm-up.

On the CPU one run has one thread and holds one image: as many runs as cores at the same time beat every batch.
On CUDA one run at a time holds a padded batch of a size that was warmed before, its images copied from pinned memory.

Every option here answers a fault met elsewhere: the provider is looked at *after* the session exists, because ONNX
Runtime falls back silently; threads are set, because it does not see container limits; spinning is off, because idle
threads would burn the cores that decode; telemetry is off.

Source: onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html, .../performance/tune-performance.
"""

import logging
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from model.contract.manifest import Manifest, ManifestError, synthetic_images
from service.batcher import WorkerLost
from service.cores import usable_cores
from service.onnxfile import MalformedFile, has_external_data
from service.pinned import pinned_array
from service.settings import Settings

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
INPUTS = {"image": "tensor(uint8)", "target": "tensor(int64)", "versus": "tensor(int64)", "layer": "tensor(int64)"}
OUTPUTS = ("logits", "probabilities", "attention", "gradcam", "explained")
BEST = -1
"""Code of the graph: the class of rank 1."""
_LOST_GPU = re.compile(r"CUDA (error|failure)|CUDNN failure|CUBLAS failure|illegal memory access", re.IGNORECASE)
_NO_MEMORY = re.compile(r"out of memory|failed to allocate", re.IGNORECASE)
_ONLY_ERRORS = 3

Images = npt.NDArray[np.uint8] | Sequence[npt.NDArray[np.uint8]]

logger = logging.getLogger(__name__)


class ModelRejected(Exception):
    """A model cannot be served; the message says why, for the operator."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the graph answers for N images and T targets each.

    Attributes:
        logits: (N, K).
        probabilities: calibrated, (N, K).
        attention: in [0, 1], (N, h, w); None for an arm without a spatial map.
        gradcam: ≥ 0 or NaN for an unknown target, in units of the logit, (N, T, h, w).
        explained: class that each map is of, -1 for an unknown target, (N, T).
    """

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    attention: npt.NDArray[np.float32] | None
    gradcam: npt.NDArray[np.float32]
    explained: npt.NDArray[np.int64]

    def rows(self, count: int) -> "Outputs":
        """Return the first `count` images: drops the padding."""
        return self._map(lambda values: values[:count])

    def image(self, index: int) -> "Outputs":
        """Return one image as a batch of one, copied, so that it does not keep its whole batch alive."""
        return self._map(lambda values: values[index : index + 1].copy())

    def _map(self, take: Any) -> "Outputs":
        attention = None if self.attention is None else take(self.attention)
        return Outputs(take(self.logits), take(self.probabilities), attention, take(self.gradcam), take(self.explained))


class Engine(Protocol):
    """What runs a model.

    Attributes:
        manifest: of the model.
        provider: ONNX Runtime's name of what runs it.
        max_batch_size: most images worth putting into one run.
        concurrency: runs worth having at the same time.
    """

    manifest: Manifest
    provider: str
    max_batch_size: int
    concurrency: int

    def run(
        self,
        images: Images,
        target: npt.NDArray[np.int64],
        versus: npt.NDArray[np.int64],
        layer: int,
    ) -> Outputs:
        """Run the graph; blocks.

        Args:
            images: RGB, (N, S, S, 3), or a list of N images (S, S, 3).
            target: codes of the classes to explain, (N, T).
            versus: codes of the classes to contrast them with, K for none, (N, T).
            layer: index into the manifest's layers.
        """
        ...


class OnnxEngine:
    """One ONNX Runtime session that is verified, and warm once `warm_up` has returned.

    Args:
        model: path or content of an ONNX file with a manifest.
        settings: device, threads, batch size, memory.

    Raises:
        ModelRejected: no runtime, no GPU though `device=cuda`, or not a file with the graph contract.
    """

    def __init__(self, model: Path | bytes, settings: Settings) -> None:
        data = model if isinstance(model, bytes) else read_file(model)
        _refuse_external_data(data)
        self._session = _create_session(data, settings)
        self.provider: str = self._session.get_providers()[0]
        self.manifest = _read_manifest(self._session)
        check_graph(self._session, self.manifest)
        self._outputs = [node.name for node in self._session.get_outputs() if node.name in OUTPUTS]
        on_gpu = self.provider == CUDA
        self.max_batch_size = settings.max_batch_size if on_gpu else 1
        self.concurrency = 1 if on_gpu else settings.cpu_runs or usable_cores()
        self._staging = _Staging(self._session, self.manifest, self._outputs) if on_gpu else None

    def run(
        self,
        images: Images,
        target: npt.NDArray[np.int64],
        versus: npt.NDArray[np.int64],
        layer: int = 0,
    ) -> Outputs:
        """Run the graph on a batch; see `Engine.run`.

        Raises:
            WorkerLost: the GPU is gone; no further run can work.
        """
        try:
            if self._staging is None:
                return self._run_plain(images, target, versus, layer)
            size = padded_size(len(images), self.max_batch_size)
            return self._staging.run(images, target, versus, layer, size).rows(len(images))
        except Exception as error:
            if self.provider == CUDA and _LOST_GPU.search(str(error)) and not _NO_MEMORY.search(str(error)):
                raise WorkerLost("the GPU failed") from error
            raise

    def _run_plain(
        self,
        images: Images,
        target: npt.NDArray[np.int64],
        versus: npt.NDArray[np.int64],
        layer: int,
    ) -> Outputs:
        images = np.asarray(images)
        feeds = {"image": images, "target": target, "versus": versus, "layer": np.asarray(layer, dtype=np.int64)}
        return _outputs(self._outputs, self._session.run(self._outputs, feeds))

    def warm_up(self) -> None:
        """Run every padded batch size once, so that no request pays for a first time."""
        size, num_classes = self.manifest.input_size, self.manifest.num_classes
        for count in padded_sizes(self.max_batch_size):
            target = np.full((count, 1), BEST, dtype=np.int64)
            images = synthetic_images(0, 1, size).repeat(count, axis=0)
            self.run(images, target, np.full_like(target, num_classes))


def self_check(engine: Engine) -> None:
    """Prove that an engine computes what was exported.

    Raises:
        ModelRejected: the logits of the manifest's synthetic images differ, or are not finite.
    """
    manifest = engine.manifest
    check = manifest.self_check
    count = len(check.logits) if check else 1
    images = synthetic_images(check.seed if check else 0, count, manifest.input_size)
    target = np.full((count, 1), BEST, dtype=np.int64)
    outputs = engine.run(images, target, np.full_like(target, manifest.num_classes), 0)
    if not np.isfinite(outputs.logits).all():
        raise ModelRejected("the self-check gave numbers that are not finite")
    if check is not None:
        difference = float(np.abs(outputs.logits - np.asarray(check.logits)).max())
        if difference > check.tolerance:
            raise ModelRejected(f"the self-check is off by {difference:.3g}; allowed are {check.tolerance:.3g}")


def check_layers(engine: Engine) -> None:
    """Ask once for the map of every layer that the manifest lists, and of one more; on a GPU this warms them.

    Raises:
        ModelRejected: a layer fails to run, the graph does not know it, or its map has another shape than the
            manifest states or is not finite; or the graph has more layers than the manifest.
        WorkerLost: the GPU is gone.
    """
    layers = engine.manifest.layers
    check = engine.manifest.self_check
    image = synthetic_images(check.seed if check else 0, 1, engine.manifest.input_size)
    for index, layer in enumerate(layers):
        outputs = _ask_layer(engine, image, index, f"layer `{layer.name}`")
        # For a layer that it does not know, the graph explains no class: contract.
        if (outputs.explained < 0).any():
            raise ModelRejected(f"the manifest lists the layer `{layer.name}`, the graph has only {index}")
        grid = outputs.gradcam.shape[2:]
        if grid != layer.grid:
            raise ModelRejected(f"the map of layer `{layer.name}` has the shape {grid}, not {layer.grid}")
        if not np.isfinite(outputs.gradcam).all():
            raise ModelRejected(f"the map of layer `{layer.name}` has numbers that are not finite")
    if (_ask_layer(engine, image, len(layers), "no layer").explained >= 0).any():
        raise ModelRejected(f"the graph has more layers than the {len(layers)} of its manifest")


def _ask_layer(engine: Engine, image: npt.NDArray[np.uint8], index: int, what: str) -> Outputs:
    """Return the map of one layer, for the best class of one image."""
    target = np.full((1, 1), BEST, dtype=np.int64)
    try:
        return engine.run(image, target, np.full_like(target, engine.manifest.num_classes), index)
    except WorkerLost:
        raise
    except Exception as error:
        # The binding raises its own classes, one a status code, without a common root.
        raise ModelRejected(f"asked for {what}, the graph fails: {error}") from error


def padded_sizes(largest: int) -> list[int]:
    """Return the batch sizes that CUDA runs: powers of two, and the largest."""
    sizes = [1]
    while sizes[-1] * 2 < largest:
        sizes.append(sizes[-1] * 2)
    return sizes if largest <= 1 else [*sizes, largest]


def padded_size(count: int, largest: int) -> int:
    """Return the warmed size that holds `count` images; `count` itself where none does."""
    return next((size for size in padded_sizes(largest) if size >= count), count)


def check_graph(session: Any, manifest: Manifest) -> None:
    """Compare a session's inputs and outputs with the graph contract and the manifest.

    Raises:
        ModelRejected: they disagree; the message names the first difference.
    """
    inputs = {node.name: node for node in session.get_inputs()}
    if sorted(inputs) != sorted(INPUTS):
        raise ModelRejected(f"the graph's inputs are {sorted(inputs)}, not {sorted(INPUTS)}")
    for name, kind in INPUTS.items():
        if inputs[name].type != kind:
            raise ModelRejected(f"input `{name}` is a {inputs[name].type}, not a {kind}")
    size = manifest.input_size
    shape = inputs["image"].shape
    if len(shape) != 4 or isinstance(shape[0], int) or list(shape[1:]) != [size, size, 3]:
        raise ModelRejected(f"input `image` is {shape}, not [N, {size}, {size}, 3] with a free N")
    outputs = {node.name: node for node in session.get_outputs()}
    expected = [name for name in OUTPUTS if name != "attention" or manifest.has_attention]
    if missing := [name for name in expected if name not in outputs]:
        raise ModelRejected(f"the graph lacks the outputs {missing}")
    classes = outputs["logits"].shape[-1]
    if isinstance(classes, int) and classes != manifest.num_classes:
        raise ModelRejected(f"the graph has {classes} classes, its manifest {manifest.num_classes} labels")


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
    """Return whether sessions are to be tried on CUDA.

    Raises:
        ModelRejected: `device=cuda` with a runtime that has no CUDA provider.
    """
    if settings.device == "cpu":
        return False
    available = CUDA in runtime().get_available_providers()
    if settings.device == "cuda" and not available:
        raise ModelRejected("device=cuda, but the installed ONNX Runtime has no CUDA: install `fieldmark[gpu]`")
    return available


_warned = threading.Event()


def _warn_of_both() -> None:
    """Say once that both runtimes are installed: they overwrite each other's files."""
    if _warned.is_set():
        return
    _warned.set()
    try:
        names = (version("onnxruntime"), version("onnxruntime-gpu"))
    except PackageNotFoundError:
        return
    logger.warning("onnxruntime %s and onnxruntime-gpu %s are both installed and share files: uninstall both", *names)


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


def _create_session(data: bytes, settings: Settings) -> Any:
    ort = runtime()
    providers: list[Any] = [CPU]
    if wants_cuda(settings):
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        providers.insert(0, (CUDA, cuda_options(settings)))
    try:
        session = ort.InferenceSession(data, session_options(ort), providers=providers)
    except Exception as error:
        # The binding raises its own classes, one a status code, without a common root.
        raise ModelRejected(f"ONNX Runtime cannot load the file: {error}") from error
    if CUDA not in session.get_providers():
        if settings.device == "cuda":
            raise ModelRejected("device=cuda, but ONNX Runtime could not use the GPU (driver, CUDA or cuDNN)")
        if settings.device == "auto" and len(providers) > 1:
            logger.error("ONNX Runtime could not use the GPU (driver, CUDA or cuDNN): RUNNING ON THE CPU, far slower")
    return session


def session_options(ort: ModuleType) -> Any:
    """Return the session options of every engine: one thread a run, no spinning, errors only in its log."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _ONLY_ERRORS
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def cuda_options(settings: Settings) -> dict[str, str]:
    """Return the options of the CUDA provider.

    `HEURISTIC`: an exhaustive search would run anew for every new shape. `kSameAsRequested`: the arena grows by
    what is asked for, not by doubling. TF32 off by default: the served maps equal the reference ones to 1e-4.
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


def _outputs(names: list[str], values: list[Any]) -> Outputs:
    found = dict(zip(names, values, strict=True))
    attention = found.get("attention")
    return Outputs(
        logits=np.asarray(found["logits"], dtype=np.float32),
        probabilities=np.asarray(found["probabilities"], dtype=np.float32),
        attention=None if attention is None else np.asarray(attention, dtype=np.float32),
        gradcam=np.asarray(found["gradcam"], dtype=np.float32),
        explained=found["explained"],
    )


class _Staging:
    """The way of a batch to the GPU and back: pinned host memory, a device tensor and a binding for every size.

    Used by one thread at a time: CUDA has one worker.
    """

    def __init__(self, session: Any, manifest: Manifest, outputs: list[str], device: str = "cuda") -> None:
        self._session = session
        self._outputs = outputs
        self._device = device
        self._side = manifest.input_size
        self._none = manifest.num_classes
        self._slots: dict[int, tuple[npt.NDArray[np.uint8], Any]] = {}
        self._one_at_a_time = threading.Lock()

    def run(
        self,
        images: Images,
        target: npt.NDArray[np.int64],
        versus: npt.NDArray[np.int64],
        layer: int,
        size: int,
    ) -> Outputs:
        """Run a batch padded to `size`; the padding's answers are the last rows."""
        padding = ((0, size - len(images)), (0, 0))
        feeds = {
            "target": np.pad(target, padding, constant_values=BEST),
            "versus": np.pad(versus, padding, constant_values=self._none),
            "layer": np.asarray(layer, dtype=np.int64),
        }
        with self._one_at_a_time:
            host, on_device = self._slot(size)
            for row, image in zip(host, images, strict=False):
                row[...] = image
            # Rows beyond hold an earlier batch: they are computed and dropped.
            on_device.update_inplace(host)
            binding = self._session.io_binding()
            binding.bind_ortvalue_input("image", on_device)
            for name, values in feeds.items():
                binding.bind_cpu_input(name, values)
            for name in self._outputs:
                binding.bind_output(name, "cpu")
            self._session.run_with_iobinding(binding)
            return _outputs(self._outputs, binding.copy_outputs_to_cpu())

    def _slot(self, size: int) -> tuple[npt.NDArray[np.uint8], Any]:
        if size not in self._slots:
            shape = (size, self._side, self._side, 3)
            host = pinned_array(shape) if self._device == "cuda" else np.zeros(shape, np.uint8)
            on_device = runtime().OrtValue.ortvalue_from_shape_and_type(list(shape), np.uint8, self._device, 0)
            self._slots[size] = (host, on_device)
        return self._slots[size]
