"""Runs loads and the ceiling, each in a process of its own, and sums them up in rates and quantiles."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from service.commands.bench.ceiling import Ceiling
from service.commands.bench.loadgen import Outcome, Plan
from service.commands.bench.servers import Server


@dataclass(frozen=True)
class Load:
    """Rates and quantiles of one load.

    Attributes:
        name: of the run.
        requests: sent.
        per_s: good answers a second.
        p50_ms: of good answers.
        p95_ms: of good answers.
        p99_ms: of good answers.
        cpu_ms: CPU time of the server per request, None where its metrics cannot be read.
        loop_cpu_ms: CPU time of its event loop's thread per request: all but decode, prepare and runtime. None where
            the server was not started here, or the system does not report it.
        client_cpu_ms: CPU time of the load generator per request, which shares the machine with the server.
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
    client_cpu_ms: float | None
    codes: dict[str, int]
    loop_lag_p50_ms: float | None
    loop_lag_p99_ms: float | None
    refusal_p99_ms: float | None
    ratio: float | None = None


def run_load(plan: Plan) -> Outcome:
    """Run a plan in a process of its own."""
    found = _in_process("service.commands.bench.loadgen", asdict(plan), plan.seconds + 60)
    return Outcome(**found)


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


def take(server: Server, plan: Plan, warmup_s: float = 0.0) -> Outcome:
    """Run a plan, after a warm-up that does not count, and add the CPU time that the server used for it."""
    if warmup_s:
        run_load(replace(plan, seconds=warmup_s, max_requests=0))
    before = server.cpu_s(), server.loop_cpu_s()
    outcome = run_load(plan)
    after = server.cpu_s(), server.loop_cpu_s()
    used = [None if a is None or b is None else b - a for a, b in zip(before, after, strict=True)]
    return replace(outcome, cpu_s=used[0], loop_cpu_s=used[1])


def measure(server: Server, plan: Plan, name: str, warmup_s: float = 0.0) -> Load:
    """Run a plan, after a warm-up that does not count, and sum it up."""
    return summarise(name, take(server, plan, warmup_s))


def summarise(name: str, *rounds: Outcome) -> Load:
    """Return rates and quantiles of the runs of one plan, taken together."""
    requests = [request for outcome in rounds for request in outcome.requests]
    good = [latency for _, latency, code, _ in requests if 200 <= code < 300]
    refused = [latency for _, latency, code, _ in requests if code in (429, 503)]
    codes = Counter(str(code) for _, _, code, _ in requests)
    probes = [latency for outcome in rounds for latency in outcome.probe_s]
    seconds = sum(outcome.seconds for outcome in rounds)
    p50, p95, p99 = _quantiles_ms(good)
    lag50, _, lag99 = _quantiles_ms(probes)
    return Load(
        name=name,
        requests=len(requests),
        per_s=len(good) / seconds if seconds else 0.0,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        cpu_ms=_mean_ms([outcome.cpu_s for outcome in rounds], len(requests)),
        loop_cpu_ms=_mean_ms([outcome.loop_cpu_s for outcome in rounds], len(requests)),
        client_cpu_ms=_mean_ms([outcome.client_cpu_s for outcome in rounds], len(requests)),
        codes=dict(sorted(codes.items())),
        loop_lag_p50_ms=lag50 if probes else None,
        loop_lag_p99_ms=lag99 if probes else None,
        refusal_p99_ms=_quantiles_ms(refused)[2] if refused else None,
    )


def _mean_ms(seconds: Sequence[float | None], count: int) -> float | None:
    """Return the sum of the rounds' seconds over a count, milliseconds; None where a round has none."""
    known = [value for value in seconds if value is not None]
    return sum(known) * 1000 / count if count and len(known) == len(seconds) else None


def _quantiles_ms(seconds: Sequence[float]) -> tuple[float, float, float]:
    if not seconds:
        return 0.0, 0.0, 0.0
    p50, p95, p99 = (float(value) * 1000 for value in np.quantile(seconds, (0.5, 0.95, 0.99)))
    return p50, p95, p99
