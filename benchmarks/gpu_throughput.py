"""Service against the bare CUDA session: images a second at several sizes and precisions, and CUDA against the CPU.

For each model file: the bare session (numpy in and out, and with inputs bound on the device), the engine (padding),
the queue in front of it, and the whole service over HTTP; then how far CUDA's answers are from the CPU's with TF32
off. One JSON document on stdout or in --out.

    PYTHONPATH=. python benchmarks/gpu_throughput.py [--device cuda] [--models FILE…] [--out FILE] [--quick]

Without --models the files are made on the spot (torch and onnx needed, in a process of its own). `--device cpu`
runs everything without a GPU.
"""

import argparse
import asyncio
import contextlib
import json
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.contract.manifest import synthetic_images
from service.commands.bench.loadgen import Plan
from service.commands.bench.measure import measure
from service.commands.bench.photos import write_photos
from service.commands.bench.servers import started_server
from service.inference.batcher import DynamicBatcher
from service.inference.engine import OnnxEngine, Outputs, Question
from service.inference.sessions import CUDA, runtime
from service.inference.workers import GpuWork, run_batch
from service.settings import Settings

Measured = dict[str, Any]


def settings_of(options: argparse.Namespace, device: str | None = None) -> Settings:
    """Return the settings of an engine."""
    return Settings(device=device or options.device, max_batch_size=max(options.batches), gpu_tf32=options.tf32)


def feeds(engine: OnnxEngine, count: int) -> dict[str, npt.NDArray[Any]]:
    """Return a batch for the bare session."""
    images = synthetic_images(0, 1, engine.manifest.input_size).repeat(count, axis=0)
    return Question.about(engine.manifest).repeated(count).feeds(images)


def rate(run: Callable[[], object], images: int, seconds: float) -> float:
    """Return images a second of a call that takes `images` at a time, after a warm-up."""
    for _ in range(3):
        run()
    started, runs = time.perf_counter(), 0
    while runs < 3 or time.perf_counter() - started < seconds:
        run()
        runs += 1
    return runs * images / (time.perf_counter() - started)


def session_of(engine: OnnxEngine, count: int) -> Any:
    """Return the session that runs batches of this size; the CPU has one for all."""
    return engine._sessions.get(count, engine._sessions[1])


def bare(engine: OnnxEngine, count: int, seconds: float) -> float:
    """Return the rate of a plain session: numpy in, numpy out."""
    batch, session = feeds(engine, count), session_of(engine, count)
    return rate(lambda: session.run(None, batch), count, seconds)


def bound(engine: OnnxEngine, count: int, seconds: float) -> float:
    """Return the rate with all inputs on the device already, an upper bound for any server."""
    ort, session, device = runtime(), session_of(engine, count), "cuda" if engine.provider == CUDA else "cpu"
    binding = session.io_binding()
    held = {name: ort.OrtValue.ortvalue_from_numpy(value, device, 0) for name, value in feeds(engine, count).items()}
    for name, value in held.items():
        binding.bind_ortvalue_input(name, value)
    for node in session.get_outputs():
        binding.bind_output(node.name, "cpu")

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.copy_outputs_to_cpu()

    return rate(run, count, seconds)


def through_engine(engine: OnnxEngine, count: int, seconds: float) -> float:
    """Return the rate of `OnnxEngine.run`."""
    images, question = list(feeds(engine, count)["image"]), Question.about(engine.manifest).repeated(count)
    return rate(lambda: engine.run(images, question), count, seconds)


def through_queue(engine: OnnxEngine, in_hand: int, seconds: float) -> Measured:
    """Return the rate of the queue with so many images in flight all the time, and the mean batch."""
    sizes: list[int] = []

    async def main() -> float:
        queue: DynamicBatcher[GpuWork, Outputs] = DynamicBatcher(
            run_batch, max_batch_size=engine.max_batch_size, max_waiting=2 * in_hand, on_batch=sizes.append
        )
        await queue.start()
        work = GpuWork(engine, feeds(engine, 1)["image"][0], Question.about(engine.manifest))
        done = 0
        until = time.perf_counter() + seconds

        async def ask() -> None:
            nonlocal done
            while time.perf_counter() < until:
                await queue.submit(work, key=work.key)
                done += 1

        started = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(in_hand)))
        elapsed = time.perf_counter() - started
        await queue.stop()
        return done / elapsed

    per_s = asyncio.run(main())
    return {"in_hand": in_hand, "images_per_s": per_s, "mean_batch": float(np.mean(sizes))}


def over_http(model: Path, options: argparse.Namespace, folder: Path) -> list[Measured]:
    """Return the rates of the whole service on JPEGs of 640×480."""
    photos = write_photos(folder, [], (640, 480), 4)
    environment = {
        "FIELDMARK_DEVICE": options.device,
        "FIELDMARK_MAX_BATCH_SIZE": str(max(options.batches)),
        "FIELDMARK_GPU_TF32": str(options.tf32).lower(),
    }
    found = []
    with started_server(model, environment) as server:
        for concurrency in options.concurrency:
            plan = Plan(
                server.host, server.port, "/classify", [str(photo) for photo in photos], options.seconds,
                concurrency=concurrency, probe="/livez",
            )  # fmt: skip
            found.append(asdict(measure(server, plan, f"C = {concurrency}", options.seconds / 2)))
    return found


def parity(model: Path, options: argparse.Namespace) -> Measured:
    """Return the largest differences between this device with TF32 off and the CPU, on four images."""
    exact = argparse.Namespace(**{**vars(options), "tf32": False})
    device, cpu = OnnxEngine(model, settings_of(exact)), OnnxEngine(model, settings_of(exact, "cpu"))
    images = synthetic_images(7, 4, cpu.manifest.input_size)
    none = cpu.manifest.num_classes
    question = Question.about(cpu.manifest, (-1, -2, 0), (none, -1, none), marks=(0, -1, -2)).repeated(4)
    one, other = device.run(images, question), cpu.run(images, question)
    differences = {
        "logits": _difference(one.logits, other.logits),
        "probabilities": _difference(one.probabilities, other.probabilities),
        "gradcam_scaled": _difference(_scaled(one.gradcam), _scaled(other.gradcam)),
        "largest_logit": float(np.abs(other.logits).max()),
        "explained_differ": int((one.explained != other.explained).sum()),
    }
    there = other.present()
    for name in ("attention", "embedding", "novelty", "marks"):
        if name in there:
            differences[name] = _difference(one.present()[name], there[name])
    if "mark_maps" in there:
        asked = slice(0, 3)
        differences["mark_maps_scaled"] = _difference(
            _scaled(one.present()["mark_maps"][:, asked]), _scaled(there["mark_maps"][:, asked])
        )
        differences["marked_differ"] = int((one.present()["marked"] != there["marked"]).sum())
    return differences


def _difference(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    return float(np.abs(one.astype(np.float64) - other).max())


def _scaled(maps: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return maps divided by their largest value, since evidence in logits has no fixed scale."""
    largest = maps.max(axis=(2, 3), keepdims=True).astype(np.float64)
    return maps / np.maximum(largest, 1e-12)


def measure_model(model: Path, options: argparse.Namespace, folder: Path) -> Measured:
    """Measure one file; a part that fails is reported with its reason and does not stop the others."""
    found: Measured = {"file": model.name}
    started = time.perf_counter()
    engine = OnnxEngine(model, settings_of(options))
    engine.max_batch_size = max(options.batches)  # on the CPU (a rehearsal) the default is 1
    found["load_s"] = time.perf_counter() - started
    started = time.perf_counter()
    engine.warm_up()
    found |= {
        "warm_up_s": time.perf_counter() - started,
        "provider": engine.provider,
        "input_size": engine.manifest.input_size,
        "precision": engine.manifest.precision,
        "batches": [],
    }
    for count in options.batches:
        entry: Measured = {"batch": count}
        for name, function in (("bare", bare), ("bound", bound), ("engine", through_engine)):
            entry[name] = _attempt(function, engine, count, options.seconds)
        found["batches"].append(entry)
        print(f"{model.name}: {entry}", file=sys.stderr, flush=True)
    found["queue"] = [
        _attempt(through_queue, engine, in_hand, options.seconds)
        for in_hand in (max(options.batches), 2 * max(options.batches))
    ]
    best = max((entry["bare"] for entry in found["batches"] if isinstance(entry["bare"], float)), default=None)
    rates = [entry["images_per_s"] for entry in found["queue"] if "images_per_s" in entry]
    found["best_bare_per_s"] = best
    found["queue_to_best_bare"] = max(rates) / best if best and rates else None
    found["parity_with_cpu"] = _attempt(parity, model, options)
    del engine
    if not options.no_http:
        found["http"] = _attempt(over_http, model, options, folder)
        if best and isinstance(found["http"], list):
            found["http_to_best_bare"] = max(load["per_s"] for load in found["http"]) / best
    print(f"{model.name}: queue {found['queue']}, parity {found['parity_with_cpu']}", file=sys.stderr, flush=True)
    return found


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {str(error)[:300]}"}


def make_models(options: argparse.Namespace, folder: Path) -> list[Path]:
    """Make the files in a process of its own, so that torch and its CUDA libraries stay out of this one."""
    script = Path(__file__).with_name("gpu_models.py")
    command = [sys.executable, str(script), "--out", str(folder), "--sizes", options.sizes]
    command += ["--backbones", options.backbones]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [Path(line) for line in done.stdout.splitlines() if line.endswith(".onnx")]


def about_this_machine() -> Measured:
    """Return versions and the GPU's name."""
    ort = runtime()
    gpu = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        gpu = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    return {
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
        "providers": ort.get_available_providers(),
        "gpu": gpu,
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> int:
    """Measure every file and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--models", type=Path, nargs="*", default=[])
    parser.add_argument("--backbones", default="mobilenet_v2,resnet50", help="of the files made on the spot")
    parser.add_argument("--sizes", default="224,448", help="of the files made on the spot, pixels")
    parser.add_argument("--batches", default="1,8,32,64", help="batch sizes")
    parser.add_argument("--concurrency", default="1,32,128", help="connections over HTTP")
    parser.add_argument("--seconds", type=float, default=1.5, help="of every measurement")
    parser.add_argument("--tf32", action="store_true", help="let CUDA round to TF32")
    parser.add_argument("--no-http", action="store_true", help="leave the whole service out")
    parser.add_argument("--quick", action="store_true", help="half a second each, batches up to 4: a rehearsal")
    parser.add_argument("--out", type=Path, help="write the report here instead of to stdout")
    options = parser.parse_args()
    options.batches = [int(text) for text in options.batches.split(",")]
    options.concurrency = [int(text) for text in options.concurrency.split(",")]
    if options.quick:
        options.seconds, options.batches, options.concurrency = 0.5, [1, 2, 4], [1, 4]
    report: Measured = {"machine": about_this_machine(), "tf32": options.tf32, "models": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in options.models or make_models(options, folder):
            report["models"].append(_attempt(measure_model, model, options, folder))
            _write(report, options.out)  # after every file, in case the run is cut off
    if options.out is None:
        print(json.dumps(report, indent=1))
    return 0 if all("failed" not in found for found in report["models"]) else 1


def _write(report: Measured, out: Path | None) -> None:
    if out is not None:
        out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    sys.exit(main())
