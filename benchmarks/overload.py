"""What overload does: goodput, deadlines, refusals and memory at several times the capacity.

    python benchmarks/overload.py [--seconds 30] [--factors 2,5] [--deadline-ms 1000] [--photos DIR] [--json]

Capacity is measured first, closed loop at C = 8, in the same run. Every request names its deadline.
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

import psutil

from service.commands.bench.loadgen import Plan
from service.commands.bench.measure import measure, run_load, summarise
from service.commands.bench.photos import find_photos, write_photos
from service.commands.bench.servers import Server, started_server
from service.settings import BUNDLED_MODEL

GOODPUT = {2.0: 0.9, 5.0: 0.75}
MAX_REFUSAL_MS = 50.0
MAX_GROWTH_MB = 50.0


class MemoryWatch:
    """Reads a process's memory at intervals."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self.readings_mb: list[float] = []
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._over.wait(0.25):
            self.readings_mb.append(self._process.memory_info().rss / 1e6)

    def growth_mb(self) -> float:
        """Return how much the last quarter of the time is above the first, in its medians."""
        quarter = max(1, len(self.readings_mb) // 4)
        first, last = sorted(self.readings_mb[:quarter]), sorted(self.readings_mb[-quarter:])
        return last[len(last) // 2] - first[len(first) // 2]


def at(server: Server, base: Plan, capacity: float, factor: float, deadline_ms: float) -> dict[str, Any]:
    """Measure one factor."""
    assert server.process is not None
    plan = Plan(**{**asdict(base), "rate": factor * capacity, "headers": {"X-Request-Timeout-Ms": f"{deadline_ms:g}"}})
    with MemoryWatch(server.process.pid) as memory:
        outcome = run_load(plan)
    load = summarise(f"{factor:g}x", outcome)
    # Goodput during the load: answers after the last arrival do not count.
    good = sum(200 <= code < 300 for began, latency, code, _ in outcome.requests if began + latency <= plan.seconds)
    late = sum(200 <= code < 300 and latency * 1000 > deadline_ms for _, latency, code, _ in outcome.requests)
    goodput = good / plan.seconds / capacity
    return {
        "factor": factor,
        "offered_per_s": plan.rate,
        "goodput_ratio": goodput,
        "accepted_p99_ms": load.p99_ms,
        "accepted_late": late,
        "refusal_p99_ms": load.refusal_p99_ms,
        "memory_growth_mb": memory.growth_mb(),
        "memory_peak_mb": max(memory.readings_mb),
        "codes": load.codes,
        "holds": goodput >= GOODPUT.get(factor, 0.0)
        and load.p99_ms <= deadline_ms
        and (load.refusal_p99_ms or 0.0) <= MAX_REFUSAL_MS
        and memory.growth_mb() <= MAX_GROWTH_MB,
    }


def main() -> int:
    """Measure, print, and return 1 where a limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    parser.add_argument("--photos", type=Path, nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--factors", default="2,5")
    parser.add_argument("--deadline-ms", type=float, default=1000.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, started_server(options.model) as server:
        photos = write_photos(Path(folder), find_photos(options.photos, 8), (640, 480))
        base = Plan(server.host, server.port, "/classify", [str(path) for path in photos], options.seconds)
        closed = Plan(**{**asdict(base), "concurrency": 8, "seconds": min(10.0, options.seconds)})
        capacity = measure(server, closed, "capacity", 2.0).per_s
        report: dict[str, Any] = {"capacity_per_s": capacity, "deadline_ms": options.deadline_ms, "loads": []}
        for text in options.factors.split(","):
            report["loads"].append(at(server, base, capacity, float(text), options.deadline_ms))
            time.sleep(1.0)
    print(json.dumps(report, indent=1) if options.json else table(report))
    return 0 if all(load["holds"] for load in report["loads"]) else 1


def table(report: dict[str, Any]) -> str:
    """Return the report as text."""
    lines = [f"capacity {report['capacity_per_s']:.1f}/s, deadline {report['deadline_ms']:g} ms"]
    for load in report["loads"]:
        refusal = load["refusal_p99_ms"]
        lines.append(
            f"  {load['factor']:g}x: goodput {load['goodput_ratio']:.2f} of capacity, accepted p99 "
            f"{load['accepted_p99_ms']:.0f} ms ({load['accepted_late']} late), refusal p99 "
            f"{'-' if refusal is None else f'{refusal:.1f} ms'}, memory {load['memory_growth_mb']:+.1f} MB "
            f"(peak {load['memory_peak_mb']:.0f}), {load['codes']}: {'holds' if load['holds'] else 'DOES NOT HOLD'}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
