"""Where the event loop's time goes: a sampler of its thread's processor time inside a server under load.

PYTHONPATH=. python benchmarks/loop_profile.py [--model FILE] [--photos DIR] [--concurrency 8] [--seconds 20]

Linux only. The sampler costs a little, so that the shares count, not the times.
"""

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from service.cli import main as fieldmark
from service.commands.bench.loadgen import Plan
from service.commands.bench.measure import run_load
from service.commands.bench.photos import find_photos, write_photos
from service.commands.bench.servers import Server, free_port, wait_ready
from service.settings import BUNDLED_MODEL

INTERVAL_NS = 400_000
GROUPS = (
    ("metrics", ("prometheus_client", "service/metrics")),
    ("queue: to the thread and back", ("inference/batcher",)),
    ("predictor: question, outputs, times of the stages", ("service/inference/",)),
    ("route and answer: classes, novelty, JSON", ("http/routes", "http/answers", "service/decision/")),
    ("options of the query", ("http/negotiation", "pydantic")),
    ("body", ("http/uploads", "model/photo/")),
    ("our middlewares", ("http/admission", "http/telemetry", "http/context", "http/addresses", "http/auth")),
    ("limits of the protocol", ("http/protocol",)),
    ("uvicorn", ("uvicorn/",)),
    ("Starlette and FastAPI", ("fastapi/", "starlette/")),
)
"""What a sample is counted for: the first whose words are in the path of the innermost frame that is in any."""


class _Event(ctypes.Structure):
    """`struct sigevent` of Linux, to signal one thread."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("padding", ctypes.c_char * 64),
    )


class _Interval(ctypes.Structure):
    """`struct itimerspec`."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("every_s", "every_ns", "first_s", "first_ns"))


def serve_sampled(samples: Path) -> int:
    """Serve, and write the counts of groups when SIGUSR2 comes; a SIGUSR2 before starts anew."""
    counts: Counter[str] = Counter()

    def count(_: int, frame: FrameType | None) -> None:
        counts[_group(frame)] += 1

    def write(*_: object) -> None:
        samples.write_text(json.dumps(counts), encoding="utf-8")
        counts.clear()

    signal.signal(signal.SIGPROF, count)
    signal.signal(signal.SIGUSR2, write)
    library, timer = ctypes.CDLL(None, use_errno=True), ctypes.c_void_p()
    event = _Event(signal=signal.SIGPROF, notify=4, thread=threading.get_native_id())  # SIGEV_THREAD_ID
    interval = _Interval(0, INTERVAL_NS, 0, INTERVAL_NS)
    if library.timer_create(3, ctypes.byref(event), ctypes.byref(timer)):  # CLOCK_THREAD_CPUTIME_ID
        raise OSError(ctypes.get_errno(), "timer_create")
    if library.timer_settime(timer, 0, ctypes.byref(interval), None):
        raise OSError(ctypes.get_errno(), "timer_settime")
    return fieldmark(["serve"])


def _group(frame: FrameType | None) -> str:
    while frame is not None:
        path = frame.f_code.co_filename
        for name, words in GROUPS:
            if any(word in path for word in words):
                return name
        frame = frame.f_back
    return "uvloop between callbacks, and the rest"


def main(argv: Sequence[str] | None = None) -> int:
    """Load a sampled server and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    parser.add_argument("--photos", type=Path, nargs="*", default=[])
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.serve:
        return serve_sampled(options.serve)
    with tempfile.TemporaryDirectory() as name:
        samples, port = Path(name) / "samples.json", free_port()
        photos = write_photos(Path(name), find_photos(options.photos, 8), (640, 480))
        settings = {
            "FIELDMARK_MODEL": str(options.model),
            "FIELDMARK_PORT": str(port),
            "FIELDMARK_LOG_LEVEL": "warning",
        }
        process = subprocess.Popen([sys.executable, __file__, "--serve", str(samples)], env=os.environ | settings)
        try:
            server = Server(f"http://127.0.0.1:{port}", process)
            wait_ready(server)
            for seconds in (1.5, options.seconds):  # the first warms up
                process.send_signal(signal.SIGUSR2)
                paths = [str(path) for path in photos]
                run_load(Plan(server.host, server.port, "/classify", paths, seconds, options.concurrency))
            process.send_signal(signal.SIGUSR2)
        finally:
            process.terminate()
            process.wait()
        counts = json.loads(samples.read_text(encoding="utf-8"))
    total = sum(counts.values())
    print(f"{total} samples of the event loop's thread, one every {INTERVAL_NS / 1e6} ms of its processor time")
    for group, count in sorted(counts.items(), key=lambda each: -each[1]):
        print(f"{count / total:6.1%}  {group}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
