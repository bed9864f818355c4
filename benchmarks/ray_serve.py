"""The service behind Ray Serve beside `fieldmark serve`, on the same machine: what Ray's proxy costs.

    pip install -e '.[cpu,ray]'
    python benchmarks/ray_serve.py [--concurrency 1,8] [--seconds 6] [--rounds 6] [--replicas 2] [--photos DIR] [--json]

Both run all the time, Ray with so many replicas of one core each; one is loaded, then the other, round by round. Shown
are the medians of each and of the ratios of the pairs, with the quartiles. Processor time is of all processes of each,
Ray's own included, less what they use idle.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import psutil

from service.commands.bench.loadgen import Plan
from service.commands.bench.measure import Load, measure
from service.commands.bench.photos import find_photos, write_photos
from service.commands.bench.servers import Server, free_port, started_server, wait_ready
from service.settings import BUNDLED_MODEL


@contextmanager
def started_ray(replicas: int, temp_dir: str) -> Iterator[Server]:
    """Start Ray with the service, and wait until it is ready; stop it at the end."""
    port = free_port()
    command = [sys.executable, "-m", "deploy.ray_serve", "--port", str(port), "--temp-dir", temp_dir]
    command += ["--min-replicas", str(replicas), "--max-replicas", str(replicas)]
    with tempfile.TemporaryFile() as log:
        process = Popen(command, stdout=log, stderr=log)
        server = Server(f"http://127.0.0.1:{port}", process)
        try:
            wait_ready(server, 180)
            yield server
        finally:
            process.terminate()
            process.wait(60)


def cpu_s(server: Server) -> float:
    """Return the processor time of a server's processes, seconds."""
    assert server.process is not None
    root = psutil.Process(server.process.pid)
    found = 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        found += times.user + times.system
    return found


def loaded(server: Server, photos: list[str], concurrency: int, seconds: float) -> tuple[Load, float]:
    """Return a load and the processor time of a request, milliseconds."""
    time.sleep(1)
    before = cpu_s(server)
    time.sleep(2)
    idle_s = (cpu_s(server) - before) / 2
    plan = Plan(server.host, server.port, "/classify", photos, seconds, concurrency=concurrency)
    before, started = cpu_s(server), time.monotonic()
    load = measure(server, plan, f"C = {concurrency}")
    used_s = cpu_s(server) - before - idle_s * (time.monotonic() - started)
    return load, 1e3 * used_s / max(1, load.requests)


def main() -> int:
    """Measure both in turns and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, nargs="*", default=[])
    parser.add_argument("--concurrency", default="1,8")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    with tempfile.TemporaryDirectory(prefix="fm") as name:
        photos = [str(photo) for photo in write_photos(Path(name), find_photos(options.photos, 8), (640, 480))]
        model = BUNDLED_MODEL
        with started_ray(options.replicas, f"{name}/ray") as ray, started_server(model) as plain:
            servers = {"serve": plain, "ray": ray}
            for text in options.concurrency.split(","):
                for server in servers.values():  # warm
                    loaded(server, photos, int(text), 2.0)
                for _ in range(options.rounds):
                    for key, server in servers.items():
                        load, cpu_ms = loaded(server, photos, int(text), options.seconds)
                        found.setdefault(text, {}).setdefault(key, []).append((load.per_s, load.p50_ms, cpu_ms))
    report = {text: summary(both) for text, both in found.items()}
    print(json.dumps(report, indent=1) if options.json else table(report))
    return 0


def summary(both: dict[str, list[tuple[float, float, float]]]) -> dict[str, dict[str, list[float]]]:
    """Return by figure: the medians of `fieldmark serve` and of Ray, and the quartiles of Ray over it."""
    report = {}
    for index, name in enumerate(("per s", "p50 ms", "cpu ms")):
        plain, ray = ([figures[index] for figures in both[key]] for key in ("serve", "ray"))
        ratios = [theirs / ours for ours, theirs in zip(plain, ray, strict=True) if ours]
        quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        report[name] = {"median": [statistics.median(plain), statistics.median(ray)], "ratio": quartiles}
    return report


def table(report: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    """Return the report as text."""
    lines = [f"{'C':>3}  {'':<7}{'serve':>9}{'Ray':>9}   Ray / serve (quartiles)"]
    for text, figures in report.items():
        for name, figure in figures.items():
            (plain, ray), (low, middle, high) = figure["median"], figure["ratio"]
            lines.append(f"{text:>3}  {name:<7}{plain:>9.1f}{ray:>9.1f}   {middle:.2f} ({low:.2f} … {high:.2f})")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
