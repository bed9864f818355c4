"""What the deployment's tests share: the project's root, and the service as a process of its own."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
FIELDMARK = Path(sys.executable).with_name("fieldmark")
READY_WITHIN_S = 60


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the project's root."""
    return ROOT


@pytest.fixture(scope="session")
def promtool() -> str:
    """Return Prometheus' checking tool; skip where it is not installed."""
    return _tool("promtool", "Debian's package prometheus")


@pytest.fixture(scope="session")
def prometheus() -> str:
    """Return Prometheus; skip where it is not installed."""
    return _tool("prometheus", "Debian's package prometheus")


def _tool(name: str, source: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed ({source})")
    return path


@pytest.fixture(scope="session")
def wait() -> Callable[..., None]:
    """Return the function that asks another process again and again until something is so."""
    return wait_until


@pytest.fixture(scope="session")
def bird(bird_photos: list[Path]) -> Path:
    """Return one photo of a bird."""
    return bird_photos[0]


def free_port() -> int:
    """Return a TCP port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], bool], what: str, within_s: float = READY_WITHIN_S) -> None:
    """Ask again and again until it is true, or fail the test saying what never came."""
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {within_s} s")
        time.sleep(0.1)  # between two questions to another process, not in place of one


def answers(url: str) -> bool:
    """Return whether the address answers 200."""
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def served(
    command: list[str], address: str, log: Path, settings: Mapping[str, str], within_s: float = READY_WITHIN_S
) -> Iterator[str]:
    """Run a command that serves at the address, from ready until the block ends; yield the address."""
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=os.environ | dict(settings))
    try:
        deadline = time.monotonic() + within_s
        while not answers(f"{address}/readyz"):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command} did not get ready: {log.read_text()[-2000:]}")
            time.sleep(0.1)  # between two questions to another process, not in place of one
        yield address
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Return a function that starts the service with the given settings and returns its address once it is ready."""
    with ExitStack() as stack:

        def start(program: Path = FIELDMARK, *, host: str = "127.0.0.1", port: int = 0, **settings: str) -> str:
            port = port or free_port()
            command = [str(program), "serve", "--host", host, "--port", str(port)]
            log = tmp_path_factory.mktemp("serve") / "log"
            return stack.enter_context(served(command, f"http://{host}:{port}", log, settings))

        yield start
