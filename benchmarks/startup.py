"""The time from `fieldmark serve` to ready, and the memory then used; this script checks a limit of both.

python benchmarks/startup.py [--model FILE] [--runs 5] [--json]
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import psutil

from service.commands.bench.loadgen import Plan
from service.commands.bench.photos import write_photos
from service.commands.bench.servers import started_server
from service.settings import BUNDLED_MODEL

MAX_READY_S = 3.0
MAX_RESIDENT_MB = 400.0


def main() -> int:
    """Measure, print, and return 1 where a limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ready_s, resident_mb, loaded_mb = [], [], []
    for _ in range(options.runs):
        began = time.perf_counter()
        with started_server(options.model) as server:
            ready_s.append(time.perf_counter() - began)
            assert server.process is not None
            process = psutil.Process(server.process.pid)
            resident_mb.append(process.memory_info().rss / 1e6)
            exercise(server.host, server.port)
            loaded_mb.append(process.memory_info().rss / 1e6)
    report = {
        "ready_s": statistics.median(ready_s),
        "ready_s_runs": ready_s,
        "resident_mb_idle": max(resident_mb),
        "resident_mb_after_load": max(loaded_mb),
        "holds": statistics.median(ready_s) < MAX_READY_S and max(loaded_mb) < MAX_RESIDENT_MB,
    }
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        print(f"ready after {report['ready_s']:.2f} s (median of {options.runs}; limit {MAX_READY_S:g} s)")
        print(
            f"resident {report['resident_mb_idle']:.0f} MB idle, {report['resident_mb_after_load']:.0f} MB after load"
        )
    return 0 if report["holds"] else 1


def exercise(host: str, port: int) -> None:
    """Request classes and pictures, several at a time: memory allocated under load stays allocated."""
    import tempfile

    from service.commands.bench.measure import run_load

    with tempfile.TemporaryDirectory() as folder:
        photos = [str(path) for path in write_photos(Path(folder), [], (640, 480), 2)]
        for target in ("/classify", "/explain"):
            run_load(Plan(host, port, target, photos, 3.0, concurrency=8))


if __name__ == "__main__":
    sys.exit(main())
