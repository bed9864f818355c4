"""This checkout against another one, round after round: latency, throughput, processor time, and memory.

python benchmarks/two_checkouts.py --before TREE [--photos DIR] [--rounds 20] [--seconds 3] [--json]

`TREE` is made by, for example, `git worktree add TREE COMMIT`. Both servers stay up; each round loads both in turning
order at every concurrency and with even arrivals at half of what the first could answer, between two measurements of
the ceiling. Ratios are taken within a round: their median, and its bootstrapped 95% interval. The exit status is 1
where a limit does not hold.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from service.commands.bench.ceiling import Ceiling
from service.commands.bench.command import file_of
from service.commands.bench.loadgen import Plan
from service.commands.bench.measure import Load, run_ceiling, summarise, take
from service.commands.bench.photos import find_photos, write_photos
from service.commands.bench.servers import Server, started_server
from service.settings import BUNDLED_MODEL

EVEN = "even arrivals"
LIMITS = {
    "C = 1, p50 / one photo on one core": (None, 0.75),
    "C = 8, throughput / before": (0.98, None),
    "C = 32, throughput / before": (0.98, None),
    "C = 8, throughput / ceiling": (0.95, None),
    f"{EVEN}, p99 / before": (None, 1.0),
}
"""Least and most of a median."""


class Round(NamedTuple):
    """One round: the loads of both servers by name, and the ceiling around them."""

    after: dict[str, Load]
    before: dict[str, Load]
    ceiling: Ceiling


def main() -> int:
    """Measure, print, and return 1 where a limit does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="the other checkout")
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL)
    parser.add_argument("--photos", type=Path, nargs="*", default=[])
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load of a round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    before = {"PYTHONPATH": str(options.before.resolve()), "PYTHONSAFEPATH": "1"}
    after = {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONSAFEPATH": "1"}
    os.environ.update(after)  # of the ceiling and the load generator
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        photos = write_photos(folder, find_photos(options.photos, 8), (640, 480))
        servers = [stack.enter_context(started_server(options.model.resolve(), tree)) for tree in (after, before)]
        idle = [resident_mib(server) for server in servers]
        rounds = measure(servers, photos, options)
        loaded = [resident_mib(server) for server in servers]
    found = ratios(rounds)
    broken = [name for name, (least, most) in LIMITS.items() if not _holds(found.get(name), least, most)]
    memory = {"idle": idle, "after all loads": loaded}
    if options.json:
        print(json.dumps({"ratios": found, "memory_mib": memory, "broken": broken}, indent=2))
    else:
        for name, (median, low, high) in found.items():
            print(f"{name:<42} {median:.3f} ({low:.3f} … {high:.3f}){'  BROKEN' if name in broken else ''}")
        for name, (now, then) in memory.items():
            print(f"resident, {name}: {now:.0f} MiB, before {then:.0f}")
    return 1 if broken else 0


def measure(servers: Sequence[Server], photos: list[Path], options: argparse.Namespace) -> list[Round]:
    """Return the rounds; the first one only warms up and sets the rate of the even arrivals."""
    names = [str(photo) for photo in photos]
    rounds: list[Round] = []
    rate = 10.0
    model = file_of(options.model.resolve(), servers[0].precision())
    ceilings = [run_ceiling(model, photos, options.seconds / 2)]
    for index in range(options.rounds + 1):
        loads: list[dict[str, Load]] = [{}, {}]
        for concurrency in (*options.concurrency, 0):
            name = f"C = {concurrency}" if concurrency else EVEN
            for side in (0, 1) if index % 2 else (1, 0):
                server = servers[side]
                plan = Plan(server.host, server.port, "/classify", names, options.seconds, concurrency)
                if not concurrency:
                    plan = replace(plan, rate=rate)
                loads[side][name] = summarise(name, take(server, plan))
        ceilings.append(run_ceiling(model, photos, options.seconds / 2))
        if index == 0:
            rate = max(load.per_s for load in loads[0].values()) / 2
            continue
        around = [np.array([getattr(one, name) for one in ceilings[-2:]]).mean() for name in Ceiling.__annotations__]
        rounds.append(Round(*loads, Ceiling(*map(float, around))))
        print(f"round {index} of {options.rounds}", end="\r", file=sys.stderr)
    return rounds


def ratios(rounds: Sequence[Round]) -> dict[str, tuple[float, float, float]]:
    """Return each ratio's median over the rounds, with its interval."""
    found = {
        "C = 1, p50 / one photo on one core": [
            row.after["C = 1"].p50_ms / row.ceiling.image_s / 1e3 for row in rounds if "C = 1" in row.after
        ]
    }
    for name in rounds[0].after:
        sides = [(row.after[name], row.before[name]) for row in rounds]
        found[f"{name}, throughput / before"] = [now.per_s / then.per_s for now, then in sides]
        found[f"{name}, p50 / before"] = [now.p50_ms / then.p50_ms for now, then in sides]
        found[f"{name}, p99 / before"] = [now.p99_ms / then.p99_ms for now, then in sides]
        found[f"{name}, processor time / before"] = [_over(now.cpu_ms, then.cpu_ms) for now, then in sides]
        found[f"{name}, loop's time / before"] = [_over(now.loop_cpu_ms, then.loop_cpu_ms) for now, then in sides]
        if name != EVEN:
            most = [row.ceiling.images_per_s for row in rounds]
            found[f"{name}, throughput / ceiling"] = [now.per_s / of for (now, _), of in zip(sides, most, strict=True)]
            found[f"{name}, before / ceiling"] = [then.per_s / of for (_, then), of in zip(sides, most, strict=True)]
    return {name: interval(values) for name, values in found.items() if values}


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return a median, and its bootstrapped 95% interval."""
    draws = np.random.default_rng(0).choice(np.asarray(values), (4000, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(np.median(values)), float(low), float(high)


def resident_mib(server: Server) -> float:
    """Return the resident memory of a server that was started here, MiB."""
    assert server.process is not None
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _over(now: float | None, then: float | None) -> float:
    return float("nan") if now is None or not then else now / then


def _holds(found: Any, least: float | None, most: float | None) -> bool:
    """Return whether a median is within a limit; one that was not measured is."""
    return found is None or ((least is None or found[0] >= least) and (most is None or found[0] <= most))


if __name__ == "__main__":
    sys.exit(main())
