"""What the gradient costs inside the graph, and how much faster the graph is than pytorch-grad-cam.

    python benchmarks/graph_cost.py                                 the bundled model
    python benchmarks/graph_cost.py --model FILE.onnx
    python benchmarks/graph_cost.py --backbone resnet50 --size 448  random weights: the time is the same
    python benchmarks/graph_cost.py --int8 FILE.onnx                compares that file with the fp32 model too
    python benchmarks/graph_cost.py --marks 312                     version 2, with marks and embedding, against 1

One process, one thread, processor time, medians of interleaved rounds, so that drift affects all of them equally.
The class alone is the same graph cut at `logits`; the last stage alone is the same graph without its `If`.
Each line shows the promised limit, and the exit status is 1 where a limit does not hold. With `--marks` both versions
hold the same network, version 2 besides its mark head (or a random one of so many marks) and an embedding.
"""

import argparse
import copy
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.utils import Extractor

from model.contract.geometry import Resize
from model.contract.manifest import Layer, Manifest, Marks, synthetic_images
from model.contract.marks import write_table
from model.explain.embedding import PrincipalAxes
from model.explain.explainer import Explainer
from model.explain.fitted import Fitted
from model.export.export import explainer_of, load_network
from model.export.peers import Tapped
from model.export.tracing import trace
from model.network.network import Network, NetworkConfig, build_network

BUNDLED = Path(__file__).parent.parent / "service" / "bundled"
LAST_LIMIT, FIVE_LIMIT, UNUSED_LIMIT, PEER_LIMIT = {"resnet50": 1.02}, 1.10, 1.01, 3.0
INT8_LIMITS = {"resnet50": 2.5, "mobilenet_v2": 1.3}
MARKS_LIMITS = {(1, 1): 1.03, (5, 8): 1.06}
"""(T, M) → how many times the time of version 1 with as many targets."""
NUM_PARTS = 15

Call = Callable[[], object]


def main() -> int:
    """Measure, print, and return 1 where a limit does not hold."""
    options = _parse()
    torch.set_num_threads(1)
    network, manifest = _subject(options)
    if options.marks:
        rows = measure_marks(*with_marks(network, manifest, options.marks), options.runs)
    else:
        rows = measure(network, manifest, options.runs, options.int8)
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        print(f"{network.config.backbone} at {manifest.input_size} px, one thread, medians of {options.runs} rounds")
        for row in rows:
            promise = "" if row["limit"] is None else f"  promised {row['promise']} {row['limit']:.2f}×"
            verdict = "" if row["kept"] else "  NOT KEPT"
            print(
                f"{row['name']:<44} {row['ms']:9.2f} ms {row['ratio']:7.3f}× ({row['low']:.3f}–{row['high']:.3f}) "
                f"of {row['base']:<26}{promise}{verdict}"
            )
            if "multiply_adds" in row:
                print(f"{'':<44} {row['multiply_adds']:9.1f} M multiply-adds, {row['more']:.1%} more")
    return 0 if all(row["kept"] for row in rows) else 1


def measure(network: Network, manifest: Manifest, runs: int, int8: Path | None) -> list[dict[str, Any]]:
    """Return median times and the ratios that are promised."""
    backbone, image = network.config.backbone, synthetic_images(0, 1, manifest.input_size)
    explainer = explainer_of(network, manifest)
    whole = trace(explainer, manifest.input_size)
    layers, explainer.classifier.layers = explainer.classifier.layers, explainer.classifier.layers[:1]
    last = trace(explainer, manifest.input_size)
    explainer.classifier.layers = layers
    calls: dict[str, Call] = {
        "class alone": _call(Extractor(last).extract_model(["image"], ["logits"]), image, None),
        "class, attention, Grad-CAM": _call(last, image, manifest, 1),
        "class, attention, Grad-CAM of 5 classes": _call(last, image, manifest, 5),
        "the same file with earlier layers, unused": _call(whole, image, manifest, 1),
        "pytorch-grad-cam, torch eager": _peer(explainer, image),
    }
    if int8 is not None:
        calls["int8"] = _call(onnx.load(str(int8)), image, manifest, 1)
    times = interleave(calls, runs)
    five = FIVE_LIMIT if backbone in LAST_LIMIT else None
    rows = [
        _row(times, "class alone", "class alone", None),
        _row(times, "class, attention, Grad-CAM", "class alone", LAST_LIMIT.get(backbone, 1.10)),
        _row(
            times,
            "class, attention, Grad-CAM of 5 classes",
            "class alone",
            five,
        ),
        _row(times, "the same file with earlier layers, unused", "class, attention, Grad-CAM", UNUSED_LIMIT),
        _row(times, "pytorch-grad-cam, torch eager", "class, attention, Grad-CAM", PEER_LIMIT, at_least=True),
    ]
    if int8 is not None:
        # How many times faster: fp32 by int8.
        rows.append(_row(times, "class, attention, Grad-CAM", "int8", INT8_LIMITS.get(backbone), at_least=True))
    return rows


def with_marks(network: Network, manifest: Manifest, count: int) -> tuple[Network, Manifest]:
    """Return the network with a random mark head whose parts vote, unless it has one, and a manifest of its marks."""
    if network.mark_head is None:
        names = tuple(f"part {index % NUM_PARTS}: value {index // NUM_PARTS}" for index in range(count))
        marked = build_network(dataclasses.replace(network.config, marks=names, mark_votes=0.5)).eval()
        marked.load_state_dict(network.state_dict(), strict=False)
        listed = [{"name": name, "part": name.partition(":")[0]} for name in names]
        table = write_table(np.random.default_rng(0).random((manifest.num_classes, count)))
        marks = Marks.model_validate({"marks": listed, "table": table, "grid": (1, 1)})
        return marked, manifest.model_copy(update={"marks": marks})
    return network, manifest


def measure_marks(network: Network, manifest: Manifest, runs: int) -> list[dict[str, Any]]:
    """Return median times of version 2 and their ratios to those of version 1 with the same network."""
    image, channels = synthetic_images(0, 1, manifest.input_size), network.in_channels
    axes = torch.linalg.qr(torch.randn(channels, min(256, channels))).Q.T.contiguous()
    fitted = Fitted(embedding=PrincipalAxes(torch.zeros(channels), axes, 1000))
    plain = copy.deepcopy(network)
    plain.mark_head = plain.part_votes = None
    explainers = {
        1: explainer_of(plain, manifest.model_copy(update={"marks": None})),
        2: explainer_of(network, manifest, fitted=fitted),
    }
    graphs = {version: trace(explainer, manifest.input_size) for version, explainer in explainers.items()}
    calls = {}
    for targets, marks in MARKS_LIMITS:
        calls[f"version 1, T = {targets}"] = _call(graphs[1], image, manifest, targets)
        calls[f"version 2, T = {targets}, M = {marks}"] = _call(graphs[2], image, manifest, targets, marks)
    times, rows = interleave(calls, runs), []
    for (targets, marks), limit in MARKS_LIMITS.items():
        row = _row(times, f"version 2, T = {targets}, M = {marks}", f"version 1, T = {targets}", limit)
        before, after = (_multiply_adds(graph, targets, marks) for graph in graphs.values())
        rows.append(row | {"multiply_adds": after / 1e6, "more": after / before - 1})
    return rows


def _multiply_adds(model: onnx.ModelProto, targets: int, marks: int) -> float:
    """Return the multiply-adds of one image's products and convolutions outside the branches."""
    fixed = copy.deepcopy(model)
    for value in fixed.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = {"N": 1, "T": targets, "M": marks}[dim.dim_param]
    graph = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    total = 0.0
    for node in graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            first, second, made = (shapes[name] for name in (*node.input[:2], node.output[0]))
            transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
            inner = np.prod(second[1:]) if node.op_type == "Conv" else first[0 if transposed else -1]
            if not all(made) or not inner:
                raise ValueError(f"the shapes of {node.name} are unknown: {first} and {second} → {made}")
            total += float(np.prod(made) * inner)
    return total


def interleave(calls: dict[str, Call], runs: int) -> dict[str, list[float]]:
    """Return the processor time of every call in every round, seconds; the first two rounds warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(runs + 2):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if round_ >= 2:
                times[name].append(time.process_time() - start)
    return times


def _row(
    times: dict[str, list[float]], name: str, base: str, limit: float | None, at_least: bool = False
) -> dict[str, Any]:
    # The median of the ratios within a round: drift affects both sides equally.
    ratios = np.array(times[name]) / np.array(times[base])
    ratio = float(np.median(ratios))
    again = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(again, axis=1), [0.025, 0.975])
    kept = limit is None or (ratio >= limit if at_least else ratio <= limit)
    promise = "at least" if at_least else "at most"
    return {
        "name": name,
        "ms": statistics.median(times[name]) * 1e3,
        "base": base,
        "ratio": ratio,
        "low": float(low),
        "high": float(high),
        "promise": promise,
        "limit": limit,
        "kept": kept,
    }


def _call(
    model: onnx.ModelProto, image: np.ndarray, manifest: Manifest | None, targets: int = 0, marks: int = 0
) -> Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = {"image": image}
    if manifest is not None:
        ranks = -np.arange(1, targets + 1, dtype=np.int64)[None]
        inputs |= {"target": ranks, "versus": np.full_like(ranks, manifest.num_classes), "layer": np.array(0)}
    if marks:
        inputs["mark"] = -np.arange(1, marks + 1, dtype=np.int64)[None]
    return lambda: session.run(None, inputs)


def _peer(explainer: Explainer, image: np.ndarray) -> Call:
    """Return pytorch-grad-cam's own way to class and map, its preprocessing left out."""
    from pytorch_grad_cam import GradCAM

    module = Tapped(explainer).requires_grad_(True)
    x = explainer.normalise(torch.from_numpy(image))
    return lambda: GradCAM(module, [module.tap])(x, None)


def _subject(options: argparse.Namespace) -> tuple[Network, Manifest]:
    if options.backbone is None:
        return load_network(options.model or sorted(BUNDLED.glob("*/?.onnx"))[-1])
    network = build_network(NetworkConfig(options.backbone, "guided", num_classes=200)).eval()
    manifest = Manifest(
        name=options.backbone,
        labels=tuple(f"class {index}" for index in range(200)),
        resize=Resize(size=options.size, crop=options.size),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        layers=(Layer(name="unknown", channels=1, grid=(1, 1)),),
    )
    return network, manifest


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an exported file of this project (default: the bundled one)")
    parser.add_argument("--backbone", help="time a network with random weights instead")
    parser.add_argument("--size", type=int, default=224, help="its input, pixels")
    parser.add_argument("--int8", type=Path, help="an int8 file of the same network")
    parser.add_argument("--marks", type=int, default=0, metavar="A", help="compare version 2 with version 1 instead")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
