"""The time of `fieldmark classify` of one photo, against the bare work: imports, decode, session, one run.

python benchmarks/command_start.py [--photo FILE] [--rounds 15] [--json]

Both run in turn, each in a process of its own; ratios are taken within a round. The first round, which does not count,
also verifies the model and compiles the modules.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from service.commands.bench.photos import synthetic_photo
from service.settings import BUNDLED_MODEL

MOST_RATIO = 1.5
BARE = """
import sys
import numpy as np
import onnxruntime as ort
from PIL import Image

options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
size = session.get_inputs()[0].shape[1]
image = np.asarray(Image.open(sys.argv[2]).convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
codes = {"target": [[-1]], "versus": [[0]], "layer": 0, "mark": [[0] * 8]}
given = {node.name for node in session.get_inputs()} & set(codes)
feeds = {"image": image[None]} | {name: np.array(codes[name]) for name in given}
print(session.run(["probabilities"], feeds)[0].argmax())
"""


def main() -> int:
    """Measure, print, and return 1 where the limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=next(BUNDLED_MODEL.glob("*/?.onnx")))
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photo = options.photo or Path(folder) / "photo.jpg"
        if options.photo is None:
            photo.write_bytes(synthetic_photo(640, 480))
        environment = os.environ | {"XDG_CACHE_HOME": folder, "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # installed packages are compiled
        model = str(options.model)
        commands = {
            "bare": [sys.executable, "-c", BARE, model, str(photo)],
            "classify": [
                sys.executable,
                "-m",
                "service.cli",
                "classify",
                "--model",
                model,
                "--device",
                "cpu",
                str(photo),
            ],
        }
        rounds = [
            {name: taken(command, environment) for name, command in commands.items()} for _ in range(options.rounds + 1)
        ]
    report: dict[str, Any] = {"rounds": rounds[1:]}
    for measure in ("wall_s", "cpu_s"):
        for name in commands:
            report[f"{name}_{measure}"] = statistics.median(one[name][measure] for one in rounds[1:])
        ratios = [one["classify"][measure] / one["bare"][measure] for one in rounds[1:]]
        low, middle, high = statistics.quantiles(ratios, n=4)
        report[f"ratio_{measure}"] = {"value": middle, "low": low, "high": high, "n": len(ratios)}
    report["holds"] = report["ratio_wall_s"]["value"] <= MOST_RATIO
    print(json.dumps(report, indent=1) if options.json else table(report))
    return 0 if report["holds"] else 1


def taken(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Return wall-clock and processor time of a command, seconds."""
    began, before = time.perf_counter(), os.times()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall_s": time.perf_counter() - began, "cpu_s": used}


def table(report: dict[str, Any]) -> str:
    """Return the report as text; ratios with their quartiles."""
    lines = []
    for measure, name in (("wall_s", "time"), ("cpu_s", "processor time")):
        bare, ours, ratio = report[f"bare_{measure}"], report[f"classify_{measure}"], report[f"ratio_{measure}"]
        lines.append(
            f"{name:<15}bare {bare:.2f} s, classify {ours:.2f} s, "
            f"ratio {ratio['value']:.2f} ({ratio['low']:.2f} … {ratio['high']:.2f})"
        )
    lines.append(f"holds, at most {MOST_RATIO:g}" if report["holds"] else f"DOES NOT HOLD, at most {MOST_RATIO:g}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
