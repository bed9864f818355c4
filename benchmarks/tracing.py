"""The cost of traces: throughput and processor time a request, traces off against 10% sampled, round after round.

python benchmarks/tracing.py [--rounds 12] [--seconds 5] [--before TREE] [--json]

All servers stay up; each round loads every one, in turning order, and ratios are taken within a round. `--before` also
compares with another checkout, for example `git worktree add TREE COMMIT`.
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from scipy.stats import t

from service.commands.bench.loadgen import Plan
from service.commands.bench.measure import summarise, take
from service.commands.bench.photos import find_photos, write_photos
from service.commands.bench.servers import Server, free_port, started_server
from service.settings import BUNDLED_MODEL

LEAST_SAMPLED = 0.97
RECEIVER = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def main() -> int:
    """Measure, print, and return 1 where the limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    parser.add_argument("--photos", type=Path, nargs="*", default=[])
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    port = free_port()
    environments: dict[str, dict[str, str]] = {
        "off": {},
        "10% sampled": {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.1",
        },
    }
    if options.before is not None:
        environments["before"] = {"PYTHONPATH": str(options.before.resolve()), "PYTHONSAFEPATH": "1"}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        photos = [str(path) for path in write_photos(folder, find_photos(options.photos, 8), (640, 480))]
        receiver = stack.enter_context(subprocess.Popen([sys.executable, "-c", RECEIVER, str(port)]))
        stack.callback(receiver.terminate)
        for name in [name for name in os.environ if name.startswith("OTEL_")]:
            del os.environ[name]
        servers = {
            name: stack.enter_context(started_server(options.model, environment))
            for name, environment in environments.items()
        }
        rounds = measure(servers, photos, options)
    ratios = {"10% sampled / off": ratio(rounds, "10% sampled", "off")}
    if options.before is not None:
        ratios["off / before"] = ratio(rounds, "off", "before")
    report = {
        "rounds": rounds,
        "ratios": ratios,
        "holds": ratios["10% sampled / off"]["throughput"]["value"] >= LEAST_SAMPLED,
    }
    print(json.dumps(report, indent=1) if options.json else table(report))
    return 0 if report["holds"] else 1


def measure(servers: dict[str, Server], photos: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return throughput and processor time of every server, round by round; the first round warms up."""
    rounds = []
    for index in range(options.rounds + 1):
        names = list(servers)
        names = names[index % len(names) :] + names[: index % len(names)]
        found = {}
        for name in names:
            server = servers[name]
            plan = Plan(server.host, server.port, "/classify", photos, options.seconds, concurrency=options.clients)
            load = summarise(name, take(server, plan))
            found[name] = {"throughput": load.per_s, "cpu_ms": load.cpu_ms}
        rounds.append(found)
    return rounds[1:]


def ratio(rounds: list[dict[str, Any]], name: str, against: str) -> dict[str, dict[str, float]]:
    """Return the geometric mean of the rounds' ratios with its 95% interval, for both measures."""
    found = {}
    for measure_name in ("throughput", "cpu_ms"):
        logs = [math.log(one[name][measure_name] / one[against][measure_name]) for one in rounds]
        middle = statistics.mean(logs)
        half = t.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
        low, high = math.exp(middle - half), math.exp(middle + half)
        found[measure_name] = {"value": math.exp(middle), "low": low, "high": high, "n": len(logs)}
    return found


def table(report: dict[str, Any]) -> str:
    """Return the report as text."""
    lines = []
    for name, measures in report["ratios"].items():
        for what, figure in measures.items():
            lines.append(f"{name:<20}{what:<12}{figure['value']:.3f} ({figure['low']:.3f} … {figure['high']:.3f})")
    lines.append("holds" if report["holds"] else "DOES NOT HOLD")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
