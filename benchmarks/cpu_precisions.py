"""Networks on the CPU in fp32 and int8, with one thread and two, beside OpenVINO: the bundled model and two others.

    python benchmarks/cpu_precisions.py [--rounds 30]                                                        the bundled
    python benchmarks/cpu_precisions.py --make --data CUB --lite0 tf_efficientnet_lite0_timm.pth --out DIR   the others
    python benchmarks/cpu_precisions.py --out DIR [--rounds 30]                                              all three

Every cell runs once in every round: as the service opens a file, as a plain session of ONNX Runtime with so many
threads, and in OpenVINO (`pip install openvino`; a column says so where it is absent) in float32 arithmetic with fixed
shapes, its fastest. Wall-clock time, medians; ratios are medians over the rounds' ratios, with their 95% intervals.

The others are ResNet-50 at 448 px and `tf_efficientnet_lite0`. The weights of ResNet-50 are random, since time does not
depend on them: what its int8 file loses is not measured. Both are calibrated on training photos. Every run explains one
class, and where the model has marks, eight.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from model.contract.graph import MAX_MARKS, codes_of_best, feeds
from model.contract.manifest import synthetic_images
from model.contract.variant import variant_path
from service.inference.sessions import SPIN_US, session_options
from service.settings import BUNDLED_MODEL

NETWORKS = {"resnet50": 448, "tf_efficientnet_lite0": 224}
"""Name → side of its input, pixels."""
PRECISIONS, THREADS = ("fp32", "int8"), (1, 2)
PAUSE_S = 0.005
"""After every run: the threads of a plain session go on spinning for a while."""

Call = Callable[[], object]


def main() -> int:
    """Make the files, or measure them and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the other networks' files")
    parser.add_argument("--make", action="store_true", help="make them, and measure nothing")
    parser.add_argument("--data", type=Path, help="a data set in CUB's layout, for the calibration")
    parser.add_argument("--lite0", type=Path, help="timm's weights of tf_efficientnet_lite0")
    parser.add_argument("--photos", type=int, default=24, help="of the calibration")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.make:
        if None in (options.out, options.data, options.lite0):
            parser.error("--make needs --data, --lite0 and --out")
        make(options)
        return 0
    rows = measure(files_in(options.out), options.rounds)
    print(json.dumps(rows, indent=1) if options.json else table(rows))
    return 0


def make(options: argparse.Namespace) -> None:
    """Write the fp32 and the int8 graph of each network into a folder."""
    import onnx
    import timm
    import torch

    from model.contract.geometry import Resize
    from model.contract.manifest import Layer, Manifest
    from model.export.export import explainer_of
    from model.export.int8.quantise import quantise
    from model.export.tracing import trace
    from model.network.network import NetworkConfig, build_network
    from training.data.layouts.cub import load_cub
    from training.data.prepared import prepared_images
    from training.data.samples import spread

    torch.manual_seed(0)
    lite0 = timm.create_model("tf_efficientnet_lite0")
    lite0.load_state_dict(torch.load(options.lite0, weights_only=True))
    networks: dict[str, tuple[torch.nn.Module, int, tuple[str, ...]]] = {
        "resnet50": (build_network(NetworkConfig("resnet50", "guided", num_classes=200)), 200, ()),
        "tf_efficientnet_lite0": (lite0, 1000, ("bn2",)),
    }
    samples = spread(load_cub(options.data).train, options.photos)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, (network, num_classes, layers) in networks.items():
        size = NETWORKS[name]
        manifest = Manifest(
            name=name,
            labels=tuple(map(str, range(num_classes))),
            resize=Resize(size=size, crop=size),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            layers=(Layer(name="unknown", channels=1, grid=(1, 1)),),
        )
        explainer = explainer_of(network.eval(), manifest, layers)
        explainer.classifier.layers = explainer.classifier.layers[:1]
        graph = trace(explainer, size)
        onnx.save(graph, str(options.out / f"{name}.fp32.onnx"))
        photos = prepared_images(samples, manifest.resize, 0)
        onnx.save(quantise(graph, explainer, photos), str(options.out / f"{name}.int8.onnx"))


def files_in(folder: Path | None) -> dict[str, dict[str, Path]]:
    """Return the files of the bundled model, and of the networks in a folder: name → precision → path."""
    bundled = next(BUNDLED_MODEL.glob("*/?.onnx"))
    files = {f"{bundled.parent.name}/{bundled.stem}": {"fp32": bundled, "int8": variant_path(bundled, "int8")}}
    if folder is not None:
        for name in NETWORKS:
            files[name] = {precision: folder / f"{name}.{precision}.onnx" for precision in PRECISIONS}
    return files


def measure(files: dict[str, dict[str, Path]], rounds: int) -> list[dict[str, Any]]:
    """Return a row for each file and number of threads: milliseconds, and ratios with their intervals."""
    cells = list(itertools.product(files, PRECISIONS, THREADS))
    calls = {cell: calls_of(files[cell[0]][cell[1]], cell[2]) for cell in cells}
    times: dict[tuple[str, str, int, str], list[float]] = {}
    for round_ in range(rounds + 2):  # the first two warm up
        for cell, runtimes in calls.items():
            for name, call in runtimes.items():
                start = time.perf_counter()
                call()
                taken = time.perf_counter() - start
                if round_ >= 2:
                    times.setdefault((*cell, name), []).append(1e3 * taken)
                time.sleep(PAUSE_S)
    rows = []
    for network, precision, threads in cells:
        row: dict[str, Any] = {"network": network, "precision": precision, "threads": threads}
        ours = times[network, precision, threads, "fieldmark"]
        for name in calls[network, precision, threads]:
            found = times[network, precision, threads, name]
            row[name] = float(np.median(found))
            row[f"of_{name}"] = ratio(ours, found)
        row["of_fp32"] = ratio(times[network, "fp32", threads, "fieldmark"], ours)
        rows.append(row)
    return rows


def calls_of(path: Path, threads: int) -> dict[str, Call]:
    """Return what runs a file on one image, by the name of the runtime."""
    served, plain = session_options(onnxruntime, threads), onnxruntime.SessionOptions()
    plain.log_severity_level, plain.intra_op_num_threads = 3, threads
    # By default threads spin on until the next run of their session, and through those of all others here.
    plain.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    sessions = [onnxruntime.InferenceSession(str(path), each, ["CPUExecutionProvider"]) for each in (served, plain)]
    num_classes = next(value.shape[1] for value in sessions[0].get_outputs() if value.name == "logits")
    inputs = {value.name: value.shape for value in sessions[0].get_inputs()}
    marks = -np.arange(1, MAX_MARKS + 1)[None] if "mark" in inputs else None
    given = feeds(synthetic_images(0, 1, inputs["image"][1]), *codes_of_best(1, num_classes), mark=marks)
    calls: dict[str, Call] = {
        "fieldmark": lambda: sessions[0].run(None, given),
        "bare": lambda: sessions[1].run(None, given),
    }
    try:
        import openvino
    except ImportError:
        return calls
    core = openvino.Core()
    model = core.read_model(str(path))
    model.reshape({name: list(np.shape(value)) for name, value in given.items()})
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", settings)
    return calls | {"openvino": lambda: compiled(given)}


def ratio(first: list[float], second: list[float]) -> tuple[float, float, float]:
    """Return the median of the rounds' ratios and its 95% interval."""
    ratios = np.array(first) / np.array(second)
    again = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(again, axis=1), [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""

    def shown(found: tuple[float, float, float] | None) -> str:
        return "absent" if found is None else "{:.2f} ({:.2f} … {:.2f})".format(*found)

    head = ("network", "precision", "threads", "ms", "fp32 ÷ this", "of the bare session", "of OpenVINO")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        ratios = (shown(row[name]) if name in row else "absent" for name in ("of_fp32", "of_bare", "of_openvino"))
        cells = (row["network"], row["precision"], str(row["threads"]), f"{row['fieldmark']:.1f}", *ratios)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
