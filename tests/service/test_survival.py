"""What strangers do to a public service: hang up at every stage, send slowly by the hundred, send bombs."""

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

from service.inference.engine import Engine, OnnxEngine
from service.inference.runtime import Runtime
from service.settings import Settings
from tests.service.conftest import encoded
from tests.service.running import Running, running, tiny_settings

MIB = 1024 * 1024


class GatedEngine(OnnxEngine):
    """An engine whose runs wait at a gate.

    Attributes:
        gate: open while set.
        entered: released once by every run that has reached the gate.
    """

    def __init__(self, model: Path | bytes, settings: Settings) -> None:
        super().__init__(model, settings)
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def run(self, *arguments: Any, **named: Any) -> Any:
        """Run once the gate is open."""
        self.entered.release()
        assert self.gate.wait(60)
        return super().run(*arguments, **named)


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, GatedEngine]]:
    """Return a server with one worker, and its engine."""
    engines: list[GatedEngine] = []

    def load(data: bytes, settings: Settings) -> Engine:
        engines.append(GatedEngine(data, settings))
        return engines[0]

    settings = tiny_settings(tmp_path_factory.mktemp("models"), cpu_runs=1)
    with running(settings, Runtime(settings, load=load)) as server:
        while engines[0].entered.acquire(blocking=False):
            pass  # warm-up and self-check
        yield server, engines[0]


def head(size: int, address: str = "/classify") -> bytes:
    """Return the header of a request with a body of this size."""
    return f"POST {address} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {size}\r\n\r\n".encode()


def is_empty(server: Running) -> bool:
    """Return whether nothing is in hand, in no count."""
    in_hand = server.runtime.load
    return (0.0, 0, 0, 0) == (server.in_flight(), in_hand.requests, in_hand.bytes, server.runtime.workers.waiting)


def still_answers(server: Running, photo: bytes) -> None:
    """Check that the next request works."""
    with server.client() as client:
        client.post("/classify", content=photo, headers={"Content-Type": "image/png"}).raise_for_status()


def gone(server: Running) -> float:
    """Return how many requests ended because their client had left."""
    labels = {"route": "/classify", "method": "POST", "code": "499"}
    return server.runtime.metrics.registry.get_sample_value("fieldmark_http_requests_total", labels) or 0


def test_hang_up_while_sending(gated: tuple[Running, GatedEngine], red_png: bytes) -> None:
    """A client that leaves in the middle of its body leaves nothing behind."""
    server, _ = gated
    before = gone(server)
    for count in range(5):
        with server.connect() as connection:
            connection.sendall(head(len(red_png)) + red_png[: 10 * count])
            server.until(lambda: server.in_flight() == 1)
        server.until(lambda: is_empty(server))
    assert before + 5 == gone(server)
    still_answers(server, red_png)


def test_hang_up_in_the_queue_and_in_the_run(gated: tuple[Running, GatedEngine], red_png: bytes) -> None:
    """Clients that leave while one is run and others wait are forgotten at once, before the run is over."""
    server, engine = gated
    engine.gate.clear()
    running_one = server.connect()
    running_one.sendall(head(len(red_png)) + red_png)
    assert engine.entered.acquire(timeout=60)
    waiting = [server.connect() for _ in range(3)]
    for connection in waiting:
        connection.sendall(head(len(red_png)) + red_png)
    server.until(lambda: server.runtime.workers.waiting == 3)
    waiting[1].close()
    server.until(lambda: server.in_flight() == 3)
    for connection in (running_one, waiting[0], waiting[2]):
        connection.close()
    server.until(lambda: server.in_flight() == 0)
    engine.gate.set()
    server.until(lambda: is_empty(server))
    still_answers(server, red_png)
    while engine.entered.acquire(blocking=False):
        pass


def test_who_left_the_queue_is_not_run(gated: tuple[Running, GatedEngine], red_png: bytes) -> None:
    """Work of a client that left while waiting is dropped, not done."""
    server, engine = gated
    engine.gate.clear()
    with server.connect() as first:
        first.sendall(head(len(red_png)) + red_png)
        assert engine.entered.acquire(timeout=60)
        with server.connect() as second:
            second.sendall(head(len(red_png)) + red_png)
            server.until(lambda: server.runtime.workers.waiting == 1)
        server.until(lambda: server.in_flight() == 1)
        engine.gate.set()
        assert first.recv(65536).startswith(b"HTTP/1.1 200")
    server.until(lambda: is_empty(server))
    assert not engine.entered.acquire(blocking=False)


def test_two_hundred_slow_senders(tmp_path: Path, red_png: bytes) -> None:
    """While two hundred clients send next to nothing, all others are answered; then the slow ones get 408."""
    with running(tiny_settings(tmp_path, body_timeout_s=20)) as server, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(server.connect()) for _ in range(200)]
        for connection in slow:
            connection.sendall(head(1000) + b"\x89")
        server.until(lambda: server.in_flight() == 200)
        with server.client() as client:
            for _ in range(50):
                for connection in slow[::20]:
                    connection.sendall(b"x")
                client.post("/classify", content=red_png, headers={"Content-Type": "image/png"}).raise_for_status()
        assert 200 == server.in_flight()
        assert all(first_line(connection).startswith(b"HTTP/1.1 408") for connection in slow)
        server.until(lambda: is_empty(server))


def first_line(connection: socket.socket) -> bytes:
    """Return the first line of the answer, reading all of it."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return received.partition(b"\r\n")[0]


# Bombs: small files, large images.


def flat_png(side: int, rows: int | None = None) -> bytes:
    """Return a PNG of a few kilobytes with this many pixels a side, made without holding them.

    Args:
        side: pixels, as the header says.
        rows: that are really there; all of them by default.
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    packer = zlib.compressobj(1)
    row = bytes(1 + 3 * side)
    pixels = b"".join(packer.compress(row) for _ in range(rows or side)) + packer.flush()
    header = side.to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def flat_image(side: int, image_format: str, **options: Any) -> bytes:
    """Return a flat image as a file."""
    stream = io.BytesIO()
    Image.new("L", (side, side)).save(stream, image_format, **options)
    return stream.getvalue()


@pytest.fixture
def alone() -> Iterator[Callable[[], tuple[str, psutil.Process]]]:
    """Return what starts a server of the bundled model in a process of its own."""
    with contextlib.ExitStack() as stack:

        def start() -> tuple[str, psutil.Process]:
            program = "from service.http.server import serve; from service.settings import Settings; serve(Settings())"
            options = {"FIELDMARK_PORT": "0", "FIELDMARK_DEVICE": "cpu", "FIELDMARK_LOG_FORMAT": "json"}
            options["FIELDMARK_REQUEST_TIMEOUT_MS"] = "120000"  # a deadline would hide a bomb
            environment = os.environ | options
            process = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            assert process.stderr is not None
            for line in process.stderr:
                event = json.loads(line)["event"]
                if event.startswith("ready on "):
                    url = event.split()[2].rstrip(",")
                    threading.Thread(target=process.stderr.read, daemon=True).start()
                    return url, psutil.Process(process.pid)
            raise AssertionError("the server ended before it was ready")

        yield start


def peak_bytes(process: psutil.Process) -> int:
    """Return the most memory the process has held since the peak was last forgotten."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read from /proc")
def test_bombs_stay_small(alone: Callable[[], tuple[str, psutil.Process]], data_dir: Path) -> None:
    """Decompression bombs, one by one and all at once, take less than 100 MB beyond what photos take."""
    bombs = [
        flat_png(4000), flat_png(7000), flat_png(30_000, rows=10),
        flat_image(4000, "WEBP", lossless=True, method=0), flat_image(7000, "GIF"),
        flat_image(7000, "TIFF", compression="tiff_adobe_deflate"), flat_image(7000, "JPEG"),
        flat_image(5000, "JPEG", progressive=True),
        (data_dir / "awkward" / "decompression_bomb.gif").read_bytes(),
        (data_dir / "awkward" / "png_decompression_dos.png").read_bytes(),
    ]  # fmt: skip
    url, process = alone()
    with httpx.Client(base_url=url, timeout=120) as client:
        for _ in range(8):
            client.post("/classify", files=[("file", encoded("red", (1500, 1000), "JPEG"))] * 2).raise_for_status()
            client.post("/explain", content=encoded("red", (1500, 1000), "JPEG")).raise_for_status()
        quiet = peak_bytes(process)
        for address in ("/classify", "/explain?size=64&view=attention"):
            for bomb in bombs:
                assert client.post(address, content=bomb).status_code in {200, 413, 422}
        assert 200 == client.post("/classify", files=[("file", bomb) for bomb in bombs]).status_code
        extra = peak_bytes(process) - quiet
    assert extra < 100_000_000, f"{extra / 1e6:.0f} MB"
