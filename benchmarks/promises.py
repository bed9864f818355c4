"""The promises under load, on real photos and the bundled model: nothing accepted is lost.

    python benchmarks/promises.py [corrupt|swaps|sigterm|memory|all] [--photos DIR] [--requests 10000] [--json]

corrupt: 300 good and 20 corrupt photos, 32 at a time: 300 answers, 20 typed errors.
swaps: 20 hot swaps under load: every request answered.
sigterm: SIGTERM under load: accepted requests are answered, the exit code is 0.
memory: 10,000 requests: growth after the first thousand.
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import psutil

from service.commands.bench.loadgen import LOST, Outcome, Plan
from service.commands.bench.measure import run_load, summarise
from service.commands.bench.photos import find_photos, write_photos
from service.commands.bench.servers import Server, started_server
from service.settings import BUNDLED_MODEL

MAX_GROWTH_MB = 20.0
LEAST_ANSWERS = 50
# These promises are about lost requests, not about time: no deadline may interfere on a busy machine.
PATIENT = {"FIELDMARK_REQUEST_TIMEOUT_MS": "600000", "FIELDMARK_LOG_LEVEL": "error"}


def plan_for(server: Server, photos: list[Path], **options: Any) -> Plan:
    """Return a plan that classifies these photos."""
    fields = {"seconds": 600.0, "concurrency": 32, **options}
    return Plan(server.host, server.port, "/classify", [str(photo) for photo in photos], **fields)


def corrupt(photos: list[Path], folder: Path, _: argparse.Namespace) -> dict[str, Any]:
    """Send corrupt photos among good ones."""
    broken = folder / "broken.jpg"
    broken.write_bytes(photos[0].read_bytes()[: photos[0].stat().st_size // 2])
    order = [broken if index % 16 == 7 else photos[index % len(photos)] for index in range(320)]
    with started_server(BUNDLED_MODEL, PATIENT) as server:
        outcome = run_load(plan_for(server, order, max_requests=320))
    # The load generator takes photos in turn, so each of the 320 was sent once.
    wanted = {index: (422 if index % 16 == 7 else 200) for index in range(320)}
    wrong = [(photo, code) for _, _, code, photo in outcome.requests if wanted[photo] != code]
    codes = summarise("corrupt", outcome).codes
    return {"codes": codes, "wrong": wrong, "holds": codes == {"200": 300, "422": 20} and not wrong}


def swaps(photos: list[Path], folder: Path, _: argparse.Namespace) -> dict[str, Any]:
    """Replace the model file twenty times under load."""
    source = next(iter(sorted(BUNDLED_MODEL.glob("*/?.onnx"))))
    models = folder / "models" / source.parent.name
    models.mkdir(parents=True)
    served = models / "1.onnx"
    shutil.copy(source, served)
    model = onnx.load(str(source))
    environment = {**PATIENT, "FIELDMARK_POLL_INTERVAL_S": "0.2"}
    seen: set[str] = set()
    with started_server(models.parent, environment) as server:
        loads: list[Outcome] = []
        swapped = threading.Event()

        def load() -> None:
            while not swapped.is_set():
                loads.append(run_load(plan_for(server, photos, seconds=5.0, concurrency=8)))

        client = threading.Thread(target=load)
        client.start()
        began = time.monotonic()
        for number in range(20):
            model.doc_string = f"swap {number}"  # other bytes, the same answers
            new = models / f".{number}.tmp"
            new.write_bytes(model.SerializeToString())
            new.replace(served)
            until = time.monotonic() + 20
            before = len(seen)
            while len(seen) == before and time.monotonic() < until:
                seen.add(json.loads(server.get("/models"))["models"][0]["sha256"])
                time.sleep(0.1)
        swapping_s = time.monotonic() - began
        swapped.set()
        client.join()
    codes = Counter(code for outcome in loads for _, _, code, _ in outcome.requests)
    return {
        "swaps_seen": len(seen),
        "swapping_s": swapping_s,
        "codes": codes,
        "slowest_p99_ms": max(summarise("swaps", outcome).p99_ms for outcome in loads),
        "holds": set(codes) == {200} and len(seen) >= 20,
    }


def sigterm(photos: list[Path], _: Path, __: argparse.Namespace) -> dict[str, Any]:
    """Stop the server while requests go on; 503 and refused connections are no accepted requests."""
    loads: list[Outcome] = []
    with started_server(BUNDLED_MODEL, PATIENT) as server:
        assert server.process is not None
        client = threading.Thread(
            target=lambda: loads.append(run_load(plan_for(server, photos, seconds=35.0, concurrency=16)))
        )
        client.start()
        until = time.monotonic() + 30
        while answers_of(server) < LEAST_ANSWERS and time.monotonic() < until:
            time.sleep(0.05)
        signalled = time.monotonic()
        server.process.terminate()
        exit_code = server.process.wait(60)
        stopping_s = time.monotonic() - signalled
        client.join()
    requests = loads[0].requests
    stopping_at = min((began for began, _, code, _ in requests if code == 503), default=math.inf)
    lost = sum(code == LOST and began < stopping_at for began, _, code, _ in requests)
    # Connected while the socket closed: these were never accepted.
    cut = sum(code == LOST for _, _, code, _ in requests) - lost
    codes = summarise("sigterm", loads[0]).codes
    return {
        "exit_code": exit_code,
        "stopping_s": stopping_s,
        "codes": codes,
        "sent_before_and_lost": lost,
        "cut_at_the_end": cut,
        "holds": exit_code == 0 and not lost and codes.get("200", 0) >= LEAST_ANSWERS,
    }


def answers_of(server: Server) -> int:
    """Return how many photos a server has classified, by its own metrics."""
    wanted = b'fieldmark_http_requests_total{code="200",method="POST"'
    lines = (line for line in server.get("/metrics").splitlines() if line.startswith(wanted))
    return sum(int(float(line.rsplit(b" ", 1)[1])) for line in lines)


def memory(photos: list[Path], _: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Read the memory after a thousand requests and after all of them."""
    readings: dict[str, float] = {}
    with started_server(BUNDLED_MODEL, PATIENT) as server:
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        done = 0
        for count in (min(1000, options.requests), options.requests):
            plan = plan_for(server, photos, concurrency=16, max_requests=count - done)
            codes = summarise("memory", run_load(plan)).codes
            done = count
            readings[f"after_{count}_mb"] = process.memory_info().rss / 1e6
    first, *_, last = readings.values()
    return {**readings, "growth_mb": last - first, "codes": codes, "holds": last - first < MAX_GROWTH_MB}


PROMISES = {"corrupt": corrupt, "swaps": swaps, "sigterm": sigterm, "memory": memory}


def main() -> int:
    """Check the chosen promises, print, and return 1 where one is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("promise", nargs="?", default="all", choices=(*PROMISES, "all"))
    parser.add_argument("--photos", type=Path, nargs="*", default=[])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = list(PROMISES) if options.promise == "all" else [options.promise]
    report = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            photos = write_photos(Path(folder), find_photos(options.photos, 8), (640, 480))
            report[name] = PROMISES[name](photos, Path(folder), options)
        if not options.json:
            print(f"{name}: {'kept' if report[name]['holds'] else 'BROKEN'} {json.dumps(report[name])}", flush=True)
    if options.json:
        print(json.dumps(report, indent=1))
    return 0 if all(found["holds"] for found in report.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
