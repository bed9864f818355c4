"""Loads and the ceiling, each in a process of its own, and what they come to in rates and quantiles."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.commands.bench.ceiling import Ceiling
from service.commands.bench.loadgen import Outcome, Plan
from service.commands.bench.servers import Server


@dataclass(frozen=True)
class Load:
    """What one run of load came to.

    Attributes:
        name: of the run.
        requests: sent.
        per_s: good answers a second.
        p50_ms: of good answers.
        p95_ms: of good answers.
        p99_ms: of good answers.
        cpu_ms: CPU time of the server per request, None where its metrics cannot be read.
        loop_cpu_ms: CPU time of its event loop's thread per request: all that is not decode, prepare and runtime. None
            where it was not started here, or the system does not tell.
        codes: answers by status; 0 for broken connections, -1 for refused ones.
        loop_lag_p50_ms: of `/livez` beside the load.
        loop_lag_p99_ms: of `/livez` beside the load.
        refusal_p99_ms: of 429 and 503, None where there were none.
        ratio: of `per_s` to the ceiling measured around it, median over the rounds; None without one.
    """

    name: str
    requests: int
    per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_ms: float | None
    loop_cpu_ms: float | None
    codes: dict[str, int]
    loop_lag_p50_ms: float | None
    loop_lag_p99_ms: float | None
    refusal_p99_ms: float | None
    ratio: float | None = None


def run_load(plan: Plan) -> Outcome:
    """Run a plan in a process of its own."""
    found = _in_process("service.commands.bench.loadgen", asdict(plan), plan.seconds + 60)
    return Outcome(found["seconds"], [tuple(entry) for entry in found["requests"]], found["probe_s"])


def run_ceiling(model: Path, photos: Sequence[Path], seconds: float) -> Ceiling:
    """Measure the ceiling in a process of its own."""
    options = {"model": str(model), "photos": [str(photo) for photo in photos], "seconds": seconds}
    return Ceiling(**_in_process("service.commands.bench.ceiling", options, 4 * seconds + 60))


def _in_process(module: str, options: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    finished = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", module],
        input=json.dumps(options).encode(),
        stdout=subprocess.PIPE,
        timeout=timeout_s,
        check=True,
    )
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


@dataclass(frozen=True)
class Taken:
    """One run of load, and the CPU time that it took.

    Attributes:
        outcome: what became of its requests.
        cpu_s: of the server; None where untold.
        loop_cpu_s: of its event loop's thread; None where untold.
    """

    outcome: Outcome
    cpu_s: float | None
    loop_cpu_s: float | None


def take(server: Server, plan: Plan, warmup_s: float = 0.0) -> Taken:
    """Run a plan, after a warm-up that does not count."""
    if warmup_s:
        run_load(Plan(**{**asdict(plan), "seconds": warmup_s, "max_requests": 0}))
    before = server.cpu_s(), server.loop_cpu_s()
    outcome = run_load(plan)
    after = server.cpu_s(), server.loop_cpu_s()
    cpu_s, loop_cpu_s = (None if a is None or b is None else b - a for a, b in zip(before, after, strict=True))
    return Taken(outcome, cpu_s, loop_cpu_s)


def measure(server: Server, plan: Plan, name: str, warmup_s: float = 0.0) -> Load:
    """Run a plan, after a warm-up that does not count, and sum up."""
    return sum_up(name, [take(server, plan, warmup_s)])


def sum_up(name: str, rounds: Sequence[Taken]) -> Load:
    """Return rates and quantiles of several runs of one plan, taken together."""
    outcome = Outcome(
        sum(taken.outcome.seconds for taken in rounds),
        [request for taken in rounds for request in taken.outcome.requests],
        [seconds for taken in rounds for seconds in taken.outcome.probe_s],
    )
    cpu_s, loop_cpu_s = _sum(taken.cpu_s for taken in rounds), _sum(taken.loop_cpu_s for taken in rounds)
    return summarise(name, outcome, cpu_s, loop_cpu_s)


def _sum(seconds: Iterable[float | None]) -> float | None:
    total = 0.0
    for value in seconds:
        if value is None:
            return None
        total += value
    return total


def summarise(name: str, outcome: Outcome, cpu_s: float | None = None, loop_cpu_s: float | None = None) -> Load:
    """Return rates and quantiles of an outcome."""
    good = [latency for _, latency, code, _ in outcome.requests if 200 <= code < 300]
    refused = [latency for _, latency, code, _ in outcome.requests if code in (429, 503)]
    codes = Counter(str(code) for _, _, code, _ in outcome.requests)
    p50, p95, p99 = _quantiles_ms(good)
    lag50, _, lag99 = _quantiles_ms(outcome.probe_s)
    count = len(outcome.requests)
    return Load(
        name=name,
        requests=count,
        per_s=len(good) / outcome.seconds if outcome.seconds else 0.0,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        cpu_ms=None if cpu_s is None or not count else cpu_s * 1000 / count,
        loop_cpu_ms=None if loop_cpu_s is None or not count else loop_cpu_s * 1000 / count,
        codes=dict(sorted(codes.items())),
        loop_lag_p50_ms=lag50 if outcome.probe_s else None,
        loop_lag_p99_ms=lag99 if outcome.probe_s else None,
        refusal_p99_ms=_quantiles_ms(refused)[2] if refused else None,
    )


def _quantiles_ms(seconds: Sequence[float]) -> tuple[float, float, float]:
    if not seconds:
        return 0.0, 0.0, 0.0
    p50, p95, p99 = (float(value) * 1000 for value in np.quantile(seconds, (0.5, 0.95, 0.99)))
    return p50, p95, p99
