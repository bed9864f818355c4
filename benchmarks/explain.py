"""`/explain` beside `/classify`: throughput of every type of picture, and the effect of explaining on classifying.

python benchmarks/explain.py [--seconds 10] [--photos DIR] [--json]
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.commands.bench.loadgen import Outcome, Plan
from service.commands.bench.measure import Load, measure, run_load, summarise
from service.commands.bench.photos import find_photos, write_photos
from service.commands.bench.servers import Server, started_server
from service.settings import BUNDLED_MODEL

FORMS = {
    "JPEG overlay": ("/explain", "image/jpeg"),
    "PNG overlay": ("/explain", "image/png"),
    "WebP overlay": ("/explain", "image/webp"),
    "PNG heatmap": ("/explain?view=gradcam", "image/png"),
    "JSON": ("/explain", "application/json"),
}
LEAST_JPEG_RATIO = 0.5
MOST_P99_RATIO = 2.0


def rates(server: Server, base: Plan) -> dict[str, Load]:
    """Return the load of `/classify` and of every type of `/explain`, at the same concurrency."""
    found = {"classify": measure(server, base, "classify", 1.0)}
    for name, (target, accept) in FORMS.items():
        plan = Plan(**{**asdict(base), "target": target, "headers": {"Accept": accept}})
        found[name] = measure(server, plan, name, 1.0)
    return found


def beside(server: Server, base: Plan, clients: int) -> dict[str, Any]:
    """Return `/classify`'s latencies alone, and beside so much `/explain` that the machine is saturated."""
    alone_plan = Plan(**{**asdict(base), "concurrency": clients})
    alone = measure(server, alone_plan, "alone", 1.0)
    explaining = Plan(
        **{**asdict(base), "target": "/explain", "headers": {"Accept": "image/jpeg"}, "seconds": base.seconds + 2}
    )
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(run_load(explaining)))
    thread.start()
    time.sleep(1.0)
    with_explain = summarise("beside", run_load(alone_plan))
    thread.join()
    return {
        "classify_clients": clients,
        "explain_clients": explaining.concurrency,
        "alone_p50_ms": alone.p50_ms,
        "alone_p99_ms": alone.p99_ms,
        "beside_p50_ms": with_explain.p50_ms,
        "beside_p99_ms": with_explain.p99_ms,
        "explain_per_s": summarise("explain", outcomes[0]).per_s,
        "p99_ratio": with_explain.p99_ms / alone.p99_ms if alone.p99_ms else 0.0,
    }


def main() -> int:
    """Measure, print, and return 1 where a limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    parser.add_argument("--photos", type=Path, nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, started_server(options.model) as server:
        photos = [str(path) for path in write_photos(Path(folder), find_photos(options.photos, 8), (640, 480))]
        base = Plan(server.host, server.port, "/classify", photos, options.seconds, concurrency=8)
        loads = rates(server, base)
        lanes = [beside(server, base, clients) for clients in (1, 2)]
    ratios = {name: load.per_s / loads["classify"].per_s for name, load in loads.items()}
    report = {
        "loads": {name: asdict(load) for name, load in loads.items()},
        "ratio_to_classify": ratios,
        "beside_explain": lanes,
        "holds": ratios["JPEG overlay"] >= LEAST_JPEG_RATIO
        and all(lane["p99_ratio"] <= MOST_P99_RATIO for lane in lanes),
    }
    print(json.dumps(report, indent=1) if options.json else table(report))
    return 0 if report["holds"] else 1


def table(report: dict[str, Any]) -> str:
    """Return the report as text."""
    lines = [f"{'form':<16}{'per s':>8}{'ratio':>7}{'p50 ms':>9}{'p99 ms':>9}"]
    for name, load in report["loads"].items():
        ratio = report["ratio_to_classify"][name]
        lines.append(f"{name:<16}{load['per_s']:>8.1f}{ratio:>7.2f}{load['p50_ms']:>9.1f}{load['p99_ms']:>9.1f}")
    lines += [_lane(lane) for lane in report["beside_explain"]]
    lines.append("holds" if report["holds"] else "DOES NOT HOLD")
    return "\n".join(lines)


def _lane(lane: dict[str, Any]) -> str:
    return (
        f"/classify, C = {lane['classify_clients']}: p99 {lane['alone_p99_ms']:.1f} ms alone, "
        f"{lane['beside_p99_ms']:.1f} ms beside {lane['explain_clients']} explaining clients "
        f"({lane['p99_ratio']:.2f}x; p50 {lane['alone_p50_ms']:.1f} and {lane['beside_p50_ms']:.1f} ms)"
    )


if __name__ == "__main__":
    sys.exit(main())
