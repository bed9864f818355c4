"""Servers to measure: a running one, or one started here."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Server:
    """Address of a server, and its process if it was started here."""

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

    def precision(self) -> str:
        """Return the precision of the model that answers by default; empty where it does not say."""
        with contextlib.suppress(OSError, ValueError, LookupError):
            return str(json.loads(self.get("/readyz"))["models"][0]["precision"])
        return ""

    def cpu_s(self) -> float | None:
        """Return the CPU time that the server has used, by its own metrics; None where they cannot be read."""
        with contextlib.suppress(OSError, ValueError):
            for line in self.get("/metrics").splitlines():
                if line.startswith(b"process_cpu_seconds_total "):
                    return float(line.split()[1])
        return None

    def loop_cpu_s(self) -> float | None:
        """Return the CPU time that the event loop's thread, the first of the process, has used; None where unknown."""
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
    command = [sys.executable, "-m", "service.cli", "serve"]
    process = subprocess.Popen(command, env={**os.environ, **settings, **(environment or {})})  # noqa: S603
    server = Server(f"http://127.0.0.1:{port}", process)
    try:
        wait_ready(server)
        yield server
    finally:
        process.terminate()
        process.wait(60)


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
    """Return a port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
