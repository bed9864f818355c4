"""`fieldmark bench`: how fast is this server, and how fast could this machine be?

Closed and open loop against a running server, or against one that it starts; the load comes from a light process
of its own (`service.loadgen`). In the same run, on the same machine, it measures the ceiling: decode, prepare and
bare session on every core without HTTP. The ratio of the two is what the service costs.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from model.photo.decode import decode_image
from service.ceiling import Ceiling
from service.errors import photo_errors
from service.loadgen import Outcome, Plan
from service.settings import BUNDLED_MODEL

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
JPEG_QUALITY = 90
START_TIMEOUT_S = 60.0
ACCEPT = {
    "jpeg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "json": "application/json",
}


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


@dataclass(frozen=True)
class Server:
    """Where a server listens, and its process if it was started here."""

    url: str
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def host(self) -> str:
        """Name or address."""
        return urlsplit(self.url).hostname or "127.0.0.1"

    @property
    def port(self) -> int:
        """Port."""
        return urlsplit(self.url).port or 80

    def get(self, path: str) -> bytes:
        """Return the body of a GET."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:  # noqa: S310 - the user's own server
            body: bytes = answer.read()
            return body

    def cpu_s(self) -> float | None:
        """Return the CPU time that the server has used, by its own metrics; None where they cannot be read."""
        with contextlib.suppress(OSError, ValueError):
            for line in self.get("/metrics").splitlines():
                if line.startswith(b"process_cpu_seconds_total "):
                    return float(line.split()[1])
        return None

    def loop_cpu_s(self) -> float | None:
        """Return the CPU time that the event loop's thread, the first of the process, has used; None where untold."""
        if self.process is None:
            return None
        with contextlib.suppress(OSError):
            schedstat = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/schedstat")
            return int(schedstat.read_text().split()[0]) / 1e9
        return None


@contextlib.contextmanager
def started_server(model: Path, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """Start `fieldmark serve` on a free port and wait until it is ready; stop it at the end.

    Args:
        model: file or folder.
        environment: further `FIELDMARK_*` settings.

    Raises:
        RuntimeError: it did not become ready.
    """
    port = free_port()
    settings = {"FIELDMARK_MODEL": str(model), "FIELDMARK_PORT": str(port), "FIELDMARK_LOG_LEVEL": "warning"}
    command = [sys.executable, "-c", "import sys; from service.bench import serve_here; sys.exit(serve_here())"]
    process = subprocess.Popen(command, env={**os.environ, **settings, **(environment or {})})  # noqa: S603
    server = Server(f"http://127.0.0.1:{port}", process)
    try:
        wait_ready(server)
        yield server
    finally:
        process.terminate()
        process.wait(60)


def serve_here() -> int:
    """Serve with the settings of the environment; the process that `started_server` starts."""
    from service.server import serve
    from service.settings import Settings

    return serve(Settings())


def wait_ready(server: Server, timeout_s: float = START_TIMEOUT_S) -> None:
    """Wait until a server answers `/readyz` with 200.

    Raises:
        RuntimeError: it ended, or takes too long.
    """
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if server.process is not None and server.process.poll() is not None:
            raise RuntimeError(f"the server ended with {server.process.returncode}")
        with contextlib.suppress(OSError):
            server.get("/readyz")
            return
        time.sleep(0.02)
    raise RuntimeError("the server did not become ready")


def free_port() -> int:
    """Return a port that nobody listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run_load(plan: Plan) -> Outcome:
    """Run a plan in a process of its own."""
    found = _in_process("service.loadgen", asdict(plan), plan.seconds + 60)
    return Outcome(found["seconds"], [tuple(entry) for entry in found["requests"]], found["probe_s"])


def run_ceiling(model: Path, photos: Sequence[Path], seconds: float) -> Ceiling:
    """Measure the ceiling in a process of its own."""
    options = {"model": str(model), "photos": [str(photo) for photo in photos], "seconds": seconds}
    return Ceiling(**_in_process("service.ceiling", options, 4 * seconds + 60))


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


# Photos


def synthetic_photo(width: int, height: int, seed: int = 0) -> bytes:
    """Return a JPEG that decodes and compresses about like a photo: smooth shapes under fine grain."""
    source = np.random.default_rng(seed)
    coarse = Image.fromarray(source.integers(0, 256, (max(2, height // 40), max(2, width // 40), 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = source.normal(0, 6, (height, width, 1))
    return _jpeg(Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)))


def photos_of_size(paths: Sequence[Path], size: tuple[int, int]) -> list[bytes]:
    """Return photos cropped to the proportions of a size and scaled to it, as JPEG."""
    found = []
    for path in paths:
        with photo_errors():
            rgb = decode_image(path.read_bytes()).image
        scale = min(rgb.width / size[0], rgb.height / size[1])
        width, height = size[0] * scale, size[1] * scale
        left, top = (rgb.width - width) / 2, (rgb.height - height) / 2
        box = (left, top, left + width, top + height)
        found.append(_jpeg(rgb.resize(size, Image.Resampling.LANCZOS, box=box)))
    return found


def _jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()


def find_photos(paths: Sequence[Path], most: int) -> list[Path]:
    """Return image files of files and folders, spread evenly over what is found."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(entry for entry in path.rglob("*") if entry.suffix.lower() in PHOTO_SUFFIXES)
        else:
            found.append(path)
    step = max(1, len(found) // most)
    return found[::step][:most]


def write_photos(folder: Path, sources: Sequence[Path], size: tuple[int, int], count: int = 8) -> list[Path]:
    """Write photos of one size into a folder: made of real ones where there are any."""
    if sources:
        encoded = photos_of_size(sources[:count], size)
    else:
        encoded = [synthetic_photo(*size, seed=seed) for seed in range(count)]
    paths = []
    for index, data in enumerate(encoded):
        path = folder / f"{size[0]}x{size[1]}-{index}.jpg"
        path.write_bytes(data)
        paths.append(path)
    return paths


# The command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `fieldmark bench`."""
    parser.add_argument("--url", help="a running server; by default one is started")
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="for the server and for the ceiling")
    parser.add_argument(
        "--photos", type=Path, nargs="*", default=[], help="files or folders; by default synthetic ones"
    )
    parser.add_argument("--sizes", default="640x480", help="comma-separated WIDTHxHEIGHT that photos are brought to")
    parser.add_argument("--concurrency", default="1,8,32", help="comma-separated connections of the closed loop")
    parser.add_argument("--seconds", type=float, default=10.0, help="of every measurement, all rounds together")
    parser.add_argument("--rounds", type=int, default=3, help="in which ceiling and loads are measured in turns")
    parser.add_argument("--warmup-s", type=float, default=2.0, help="before every measurement, all rounds together")
    parser.add_argument("--endpoint", choices=("classify", "explain"), default="classify", help="what is asked")
    parser.add_argument("--accept", choices=tuple(ACCEPT), help="form of the answer")
    parser.add_argument("--rate", type=float, default=0.0, help="of the open loop, per second; 0: half of the best")
    parser.add_argument("--no-open-loop", action="store_true", help="closed loop only")
    parser.add_argument("--no-ceiling", action="store_true", help="do not measure the ceiling")
    parser.add_argument("--header", action="append", default=[], help="further header field, `Name: value`")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(options: argparse.Namespace) -> int:
    """Run `fieldmark bench`; returns the exit code."""
    sources = find_photos(options.photos, 8)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        url = options.url
        server = Server(url.rstrip("/")) if url else stack.enter_context(started_server(options.model))
        report: dict[str, Any] = {"sizes": {}}
        for text in options.sizes.split(","):
            width, _, height = text.strip().partition("x")
            photos = write_photos(Path(folder), sources, (int(width), int(height)))
            report["sizes"][text] = _measure_size(server, photos, options)
    if options.json:
        print(json.dumps(report, indent=2))  # noqa: T201 - the command's result
    else:
        print(table(report))  # noqa: T201 - the command's result
    return 0


def _measure_size(server: Server, photos: list[Path], options: argparse.Namespace) -> dict[str, Any]:
    """Measure ceiling and loads in turns, round after round: a machine's moods then fall on all of them alike."""
    base = _plan(server, photos, options)
    plans = {
        f"closed, C = {text}": Plan(**{**asdict(base), "concurrency": int(text)})
        for text in options.concurrency.split(",")
    }
    loads, ceilings = _rounds(server, photos, plans, options)
    if not options.no_open_loop:
        rate = options.rate or max(1.0, max(load.per_s for load in loads) / 2)
        plans = {
            f"open, {'Poisson' if poisson else 'even'}, {rate:.0f}/s": Plan(
                **{**asdict(base), "rate": rate, "poisson": poisson}
            )
            for poisson in (False, True)
        }
        more_loads, more_ceilings = _rounds(server, photos, plans, options)
        loads, ceilings = loads + more_loads, ceilings + more_ceilings
    ceiling = _mean(ceilings)
    return {
        "photo_bytes": int(np.mean([photo.stat().st_size for photo in photos])),
        "ceiling": None if ceiling is None else asdict(ceiling),
        "ceilings_per_s": [found.images_per_s for found in ceilings],
        "loads": [asdict(load) for load in loads],
    }


def _rounds(
    server: Server, photos: list[Path], plans: dict[str, Plan], options: argparse.Namespace
) -> tuple[list[Load], list[Ceiling]]:
    """Return what the plans came to, each with the median of its rounds' ratios to the ceilings around it."""
    seconds = options.seconds / options.rounds
    taken: dict[str, list[Taken]] = {name: [] for name in plans}
    ratios: dict[str, list[float]] = {name: [] for name in plans}
    ceilings: list[Ceiling] = []

    def ceiling() -> None:
        if not options.no_ceiling:
            ceilings.append(run_ceiling(_file_of(options.model), photos, seconds))

    ceiling()
    for _ in range(options.rounds):
        for name, plan in plans.items():
            found = take(server, Plan(**{**asdict(plan), "seconds": seconds}), options.warmup_s / options.rounds)
            taken[name].append(found)
            ceiling()
            if ceilings:
                around = (ceilings[-1].images_per_s + ceilings[-2].images_per_s) / 2
                ratios[name].append(sum_up(name, [found]).per_s / around)
    loads = [sum_up(name, found) for name, found in taken.items()]
    if ceilings:
        loads = [replace(load, ratio=float(np.median(ratios[load.name]))) for load in loads]
    return loads, ceilings


def _plan(server: Server, photos: list[Path], options: argparse.Namespace) -> Plan:
    headers = dict(_header(line) for line in options.header)
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


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def _mean(ceilings: list[Ceiling]) -> Ceiling | None:
    if not ceilings:
        return None
    rows = [asdict(ceiling) for ceiling in ceilings]
    return Ceiling(**{name: float(np.mean([row[name] for row in rows])) for name in rows[0]})


def _file_of(model: Path) -> Path:
    """Return the newest file of a folder of models, or the file itself."""
    if model.is_file():
        return model
    return max(model.glob("*/*.onnx"), key=lambda path: int(path.stem) if path.stem.isdecimal() else -1)


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
            f"{'CPU ms':>8}{'loop':>6}{'lag p99':>9}  codes"
        )
        lines.append(header)
        lines += [_row(load) for load in found["loads"]]
    return "\n".join(lines)


def _row(load: dict[str, Any]) -> str:
    codes = ", ".join(f"{code}: {count}" for code, count in load["codes"].items())
    return (
        f"  {load['name']:<28}{load['per_s']:>8.1f}{_shown(load['ratio'], 2):>7}{load['p50_ms']:>8.1f}"
        f"{load['p95_ms']:>8.1f}{load['p99_ms']:>8.1f}{_shown(load['cpu_ms'], 2):>8}"
        f"{_shown(load['loop_cpu_ms'], 2):>6}"
        f"{_shown(load['loop_lag_p99_ms'], 1):>9}  {codes}"
    )


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m service.bench`."""
    parser = argparse.ArgumentParser(prog="fieldmark bench", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
