"""`fieldmark bench`: how fast is this server, and how fast could it be on this machine?

Closed and open loop against a running server, or against one that it starts; the load comes from a light process
of its own (`service.commands.bench.loadgen`). In the same run, on the same machine, it measures the ceiling: decode,
prepare and model on every core without HTTP. The ratio of the two is the cost of the service.
"""

import argparse
import contextlib
import json
import math
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from model.contract.variant import variant_path
from service.commands.bench.ceiling import Ceiling
from service.commands.bench.loadgen import Outcome, Plan
from service.commands.bench.measure import Load, run_ceiling, summarise, take
from service.commands.bench.photos import find_photos, write_photos
from service.commands.bench.servers import Server, started_server
from service.errors import InvalidOption
from service.settings import BUNDLED_MODEL

_CODES = {"-1": "connection refused", "0": "connection broken"}
ACCEPT = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "json": "application/json"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `fieldmark bench`."""
    parser.add_argument("--url", help="a running server; by default one is started")
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="for the server and for the ceiling")
    parser.add_argument(
        "--precision",
        choices=("fp32", "int8", "auto"),
        default="fp32",
        help="of the server that is started; the ceiling is that of the file which runs",
    )
    parser.add_argument(
        "--photos", type=Path, nargs="*", default=[], help="files or folders; by default synthetic ones"
    )
    parser.add_argument(
        "--sizes", type=sizes, default="640x480", help="comma-separated WIDTHxHEIGHT that photos are scaled to"
    )
    parser.add_argument(
        "--concurrency", type=counts, default="1,8,32", help="comma-separated connections of the closed loop"
    )
    parser.add_argument("--seconds", type=above_zero, default=10.0, help="of every measurement, all rounds together")
    parser.add_argument("--rounds", type=count, default=3, help="in which ceiling and loads are measured, interleaved")
    parser.add_argument("--warmup-s", type=from_zero, default=2.0, help="before every measurement, all rounds together")
    parser.add_argument("--endpoint", choices=("classify", "explain"), default="classify", help="of the server")
    parser.add_argument("--accept", choices=tuple(ACCEPT), help="type of the answer")
    parser.add_argument("--rate", type=from_zero, default=0.0, help="of the open loop, per second; 0: half of the best")
    parser.add_argument("--no-open-loop", action="store_true", help="closed loop only")
    parser.add_argument("--no-ceiling", action="store_true", help="do not measure the ceiling")
    parser.add_argument("--header", action="append", default=[], help="further header field, `Name: value`")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def sizes(text: str) -> str:
    """Return a list of WIDTHxHEIGHT as it is, if it is one."""
    for size in text.split(","):
        width, _, height = size.strip().partition("x")
        if min(int(width), int(height)) < 1:
            raise ValueError(text)
    return text


def counts(text: str) -> str:
    """Return a list of whole numbers from 1 as it is, if it is one."""
    if min(int(count) for count in text.split(",")) < 1:
        raise ValueError(text)
    return text


def count(text: str) -> int:
    """Return a whole number from 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(text)


def from_zero(text: str) -> float:
    """Return a number from 0."""
    if not 0 <= float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return float(text)


def above_zero(text: str) -> float:
    """Return a number above 0."""
    if not from_zero(text):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return float(text)


def run(options: argparse.Namespace) -> int:
    """Run `fieldmark bench`; returns the exit code."""
    sources = find_photos(options.photos, 8)
    if options.photos and not sources:
        raise InvalidOption(f"{' '.join(map(str, options.photos))}: no photos.")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        url = options.url
        try:
            environment = {"FIELDMARK_PRECISION": options.precision}
            server = Server(url.rstrip("/")) if url else stack.enter_context(started_server(options.model, environment))
        except RuntimeError as error:
            raise OSError(f"no server to measure: {error}") from error
        file = file_of(options.model, server.precision())
        report: dict[str, Any] = {"sizes": {}}
        for text in options.sizes.split(","):
            width, _, height = text.strip().partition("x")
            photos = write_photos(Path(folder), sources, (int(width), int(height)))
            report["sizes"][text] = _measure_size(server, photos, file, options)
    if options.json:
        print(json.dumps(report, indent=2))  # noqa: T201 - the command's result
    else:
        print(table(report))  # noqa: T201 - the command's result
    return 0


def _measure_size(server: Server, photos: list[Path], file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure ceiling and loads interleaved, round by round, so that drift affects all of them equally."""
    base = _plan(server, photos, options)
    plans = {f"closed, C = {text}": replace(base, concurrency=int(text)) for text in options.concurrency.split(",")}
    loads, ceilings = _rounds(server, photos, file, plans, options)
    if not options.no_open_loop:
        rate = options.rate or max(1.0, max(load.per_s for load in loads) / 2)
        plans = {
            f"open, {name}, {rate:.0f}/s": replace(base, rate=rate, poisson=name == "Poisson")
            for name in ("even", "Poisson")
        }
        more_loads, more_ceilings = _rounds(server, photos, file, plans, options)
        loads, ceilings = loads + more_loads, ceilings + more_ceilings
    ceiling = _mean(ceilings)
    return {
        "photo_bytes": int(np.mean([photo.stat().st_size for photo in photos])),
        "ceiling": None if ceiling is None else asdict(ceiling),
        "ceilings_per_s": [found.images_per_s for found in ceilings],
        "loads": [asdict(load) for load in loads],
    }


def _rounds(
    server: Server, photos: list[Path], file: Path, plans: dict[str, Plan], options: argparse.Namespace
) -> tuple[list[Load], list[Ceiling]]:
    """Return the plans' results, each with the median of its rounds' ratios to the ceilings around it."""
    seconds = options.seconds / options.rounds
    taken: dict[str, list[Outcome]] = {name: [] for name in plans}
    ratios: dict[str, list[float]] = {name: [] for name in plans}
    ceilings: list[Ceiling] = []

    def ceiling() -> None:
        if not options.no_ceiling:
            ceilings.append(run_ceiling(file, photos, seconds))

    ceiling()
    for _ in range(options.rounds):
        for name, plan in plans.items():
            found = take(server, replace(plan, seconds=seconds), options.warmup_s / options.rounds)
            taken[name].append(found)
            ceiling()
            if ceilings:
                around = (ceilings[-1].images_per_s + ceilings[-2].images_per_s) / 2
                ratios[name].append(summarise(name, found).per_s / around)
    loads = [summarise(name, *found) for name, found in taken.items()]
    for load in loads:
        if not load.per_s:
            codes = ", ".join(f"{_CODES.get(code, code)} ({number})" for code, number in load.codes.items())
            raise OSError(f"nothing to measure: of {load.name} no request was answered: {codes or 'none was sent'}")
    if ceilings:
        loads = [replace(load, ratio=float(np.median(ratios[load.name]))) for load in loads]
    return loads, ceilings


def _plan(server: Server, photos: list[Path], options: argparse.Namespace) -> Plan:
    headers = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in options.header)}
    if options.accept:
        headers["Accept"] = ACCEPT[options.accept]
    return Plan(
        host=server.host,
        port=server.port,
        target=f"/{options.endpoint}",
        photos=[str(photo) for photo in photos],
        seconds=options.seconds,
        headers=headers,
        probe="/livez",
    )


def _mean(ceilings: list[Ceiling]) -> Ceiling | None:
    if not ceilings:
        return None
    rows = [asdict(ceiling) for ceiling in ceilings]
    return Ceiling(**{name: float(np.mean([row[name] for row in rows])) for name in rows[0]})


def file_of(model: Path, precision: str) -> Path:
    """Return the file that runs: the newest of a folder of models or the file itself, or its variant."""
    full = model
    if model.is_dir():
        full = max(model.glob("*/*.onnx"), key=lambda path: int(path.stem) if path.stem.isdecimal() else -1)
    variant = variant_path(full, precision)
    return variant if variant.is_file() else full


def table(report: dict[str, Any]) -> str:
    """Return a report as text."""
    lines = []
    for size, found in report["sizes"].items():
        lines.append(f"{size}, {found['photo_bytes'] / 1024:.0f} KiB")
        if ceiling := found["ceiling"]:
            lines.append(
                f"  ceiling {ceiling['images_per_s']:.1f}/s; one image alone {ceiling['image_s'] * 1e3:.2f} ms "
                f"(decode {ceiling['decode_s'] * 1e3:.2f}, run {ceiling['run_s'] * 1e3:.2f}), "
                f"{ceiling['cpu_s'] * 1e3:.2f} ms CPU"
            )
        header = (
            f"  {'load':<28}{'per s':>8}{'ratio':>7}{'p50':>8}{'p95':>8}{'p99':>8}"
            f"{'CPU ms':>8}{'loop':>6}{'client':>8}{'lag p99':>9}  codes"
        )
        lines.append(header)
        lines += [_row(load) for load in found["loads"]]
    return "\n".join(lines)


def _row(load: dict[str, Any]) -> str:
    codes = ", ".join(f"{code}: {count}" for code, count in load["codes"].items())
    return (
        f"  {load['name']:<28}{load['per_s']:>8.1f}{_shown(load['ratio'], 2):>7}{load['p50_ms']:>8.1f}"
        f"{load['p95_ms']:>8.1f}{load['p99_ms']:>8.1f}{_shown(load['cpu_ms'], 2):>8}"
        f"{_shown(load['loop_cpu_ms'], 2):>6}{_shown(load['client_cpu_ms'], 2):>8}"
        f"{_shown(load['loop_lag_p99_ms'], 1):>9}  {codes}"
    )


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
