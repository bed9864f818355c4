"""This service beside plain FastAPI and LitServe: same ONNX file, decode, threads, form and answer, interleaved.

    pip install -e '.[cpu]' -r benchmarks/requirements-peers.txt
    python benchmarks/peers.py [--concurrency 8,16] [--seconds 8] [--rounds 3] [--photos DIR]
        [--model FILE] [--json]

The servers are measured interleaved, round by round, and compared by medians, so that drift affects all of them
equally.
"""

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.commands.bench.loadgen import Plan
from service.commands.bench.measure import Load, measure
from service.commands.bench.photos import find_photos, write_photos
from service.commands.bench.servers import Server, free_port, started_server, wait_ready
from service.settings import BUNDLED_MODEL

BOUNDARY = "fieldmark-peers"
PEERS = {"FastAPI": "peer_fastapi.py", "LitServe": "peer_litserve.py"}


def form_of(photo: Path, folder: Path) -> Path:
    """Write a photo as the body of a form, which all three servers accept."""
    head = (
        f"--{BOUNDARY}\r\n"
        f'Content-Disposition: form-data; name="file"; filename="{photo.name}"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    path = folder / f"{photo.stem}.form"
    path.write_bytes(head.encode() + photo.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode())
    return path


@contextlib.contextmanager
def peer(script: str, model: Path) -> Iterator[Server]:
    """Start a peer and wait until it is ready; stop it with all its workers."""
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name(script)), str(port), str(model)]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    server = Server(f"http://127.0.0.1:{port}", process)
    try:
        wait_ready(server, 120)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            import os

            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def main() -> int:
    """Measure all servers interleaved and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, nargs="*", default=[])
    parser.add_argument("--model", type=Path, default=next(iter(sorted(BUNDLED_MODEL.glob("*/?.onnx")))))
    parser.add_argument("--concurrency", default="8,16")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated, of FastAPI and LitServe")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = [name for name in options.peers.split(",") if name]
    found: dict[str, dict[str, list[Load]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = write_photos(folder, find_photos(options.photos, 8), (640, 480))
        forms = [str(form_of(photo, folder)) for photo in photos]
        for _ in range(options.rounds):
            for server_name in ("fieldmark", *names):
                found.setdefault(server_name, {})
                ours = server_name == "fieldmark"
                starting = started_server(options.model) if ours else peer(PEERS[server_name], options.model)
                with starting as server:
                    measure_server(server, forms, options, found[server_name])
    report = {server: {text: summary(loads) for text, loads in by_c.items()} for server, by_c in found.items()}
    print(json.dumps(report, indent=1) if options.json else table(report))
    return 0


def measure_server(server: Server, forms: list[str], options: argparse.Namespace, found: dict[str, list[Load]]) -> None:
    """Measure one server at every concurrency, once."""
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    for text in options.concurrency.split(","):
        plan = Plan(
            server.host, server.port, "/classify", forms, options.seconds, concurrency=int(text), headers=headers
        )
        found.setdefault(text, []).append(measure(server, plan, f"C = {text}", 2.0))


def summary(loads: list[Load]) -> dict[str, Any]:
    """Return the medians of several rounds."""
    return {
        "per_s": statistics.median(load.per_s for load in loads),
        "p50_ms": statistics.median(load.p50_ms for load in loads),
        "p99_ms": statistics.median(load.p99_ms for load in loads),
        "rounds": [asdict(load) for load in loads],
    }


def table(report: dict[str, Any]) -> str:
    """Return the report as text, with the ratio of this service to each peer."""
    lines = [f"{'server':<12}{'C':>4}{'per s':>9}{'p50 ms':>9}{'p99 ms':>9}{'fieldmark / it':>16}"]
    for server, by_c in report.items():
        for text, found in by_c.items():
            ratio = report["fieldmark"][text]["per_s"] / found["per_s"] if found["per_s"] else float("nan")
            lines.append(
                f"{server:<12}{text:>4}{found['per_s']:>9.1f}{found['p50_ms']:>9.1f}{found['p99_ms']:>9.1f}{ratio:>16.2f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
