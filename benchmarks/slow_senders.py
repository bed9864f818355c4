"""p99 of normal clients while 200 others send a byte a second, against a quiet server.

Run: python benchmarks/slow_senders.py PHOTO

Starts `fieldmark serve` on a free port in a process of its own; the clients are threads of this one.
"""

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--slow", type=int, default=200, help="slow senders")
    parser.add_argument("--clients", type=int, default=2, help="normal clients side by side")
    parser.add_argument("--requests", type=int, default=500, help="of each normal client")
    options = parser.parse_args()
    with served() as url:
        photo = options.photo.read_bytes()
        measure(url, photo, options.clients, 20)
        quiet = measure(url, photo, options.clients, options.requests)
        with slow_senders(url, options.slow):
            busy = measure(url, photo, options.clients, options.requests)
    print(json.dumps({"quiet_p99_ms": quiet, "slow_p99_ms": busy, "ratio": round(busy / quiet, 2)}))


@contextlib.contextmanager
def served():  # noqa: ANN201 - a context manager of an address
    """Yield the address of a fresh server."""
    program = "from service.http.server import serve; from service.settings import Settings; serve(Settings())"
    environment = os.environ | {
        "FIELDMARK_PORT": "0",
        "FIELDMARK_LOG_FORMAT": "json",
        "FIELDMARK_BODY_TIMEOUT_S": "600",
    }
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                event = json.loads(line)["event"]
                if event.startswith("ready on "):
                    threading.Thread(target=process.stderr.read, daemon=True).start()
                    yield event.split()[2].rstrip(",")
                    break
        finally:
            process.kill()


@contextlib.contextmanager
def slow_senders(url: str, count: int):  # noqa: ANN201 - a context manager of nothing
    """Keep `count` uploads open, each sending a byte a second."""
    address = (urlsplit(url).hostname, urlsplit(url).port)
    done = threading.Event()
    connections = [socket.create_connection(address) for _ in range(count)]

    def drip() -> None:
        while not done.wait(1):
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.sendall(b"x")

    for connection in connections:
        connection.sendall(
            b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 9999\r\n\r\n"
        )
    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        yield
    finally:
        done.set()
        dripping.join()
        for connection in connections:
            connection.close()


def measure(url: str, photo: bytes, clients: int, requests: int) -> float:
    """Return p99 of the answers' times, milliseconds."""
    times: list[float] = []

    def send() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            for _ in range(requests):
                started = time.perf_counter()
                client.post("/classify", content=photo, headers={"Content-Type": "image/jpeg"}).raise_for_status()
                times.append((time.perf_counter() - started) * 1e3)

    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return round(statistics.quantiles(times, n=100)[98], 2)


if __name__ == "__main__":
    main()
