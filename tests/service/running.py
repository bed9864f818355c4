"""A real server on a real port, in a thread of the test process: uvicorn, our protocol, our drain, ONNX Runtime."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from fastapi import FastAPI

from service.http.server import make_servers
from service.inference.runtime import Runtime
from service.settings import Settings

PATIENCE_S = 120
"""How long a test waits for what must come; the machine may be busy with other things."""


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        port: it listens on.
        admin_port: of metrics and administration; 0 for none of their own.
        runtime: its models and workers.
        app: its application.
        loop: it runs in.
    """

    port: int
    admin_port: int
    runtime: Runtime
    app: FastAPI
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        """Address of its root."""
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: object) -> httpx.Client:
        """Return a client of this server."""
        return httpx.Client(base_url=self.url, timeout=PATIENCE_S, **options)  # type: ignore[arg-type]

    def in_flight(self) -> float:
        """Return the gauge of requests in flight."""
        value = self.runtime.metrics.registry.get_sample_value("fieldmark_requests_in_flight")
        assert value is not None
        return value

    def until(self, condition: Callable[[], bool]) -> None:
        """Let the server's loop turn until a condition holds: an answer is read before its request is forgotten."""

        async def turn() -> None:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():
                    await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(turn(), self.loop).result()

    def runs(self) -> float:
        """Return how often a model was run."""
        value = self.runtime.metrics.registry.get_sample_value("fieldmark_batch_images_count")
        assert value is not None
        return value

    def connect(self) -> socket.socket:
        """Return a bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)


@contextmanager
def running(settings: Settings, runtime: Runtime | None = None) -> Iterator[Running]:
    """Serve until the block ends; ready when it begins. A set `admin_port` is replaced by a free one."""
    runtime = runtime or Runtime(settings)
    server, admin = make_servers(runtime)
    listening = socket.create_server(("127.0.0.1", 0))
    for_admin = socket.create_server(("127.0.0.1", 0)) if settings.admin_port else None
    started = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        tasks = [asyncio.create_task(server.serve(sockets=[listening]))]
        if admin is not None and for_admin is not None:
            tasks.append(asyncio.create_task(admin.serve(sockets=[for_admin])))
        while not server.started and not tasks[0].done():
            await asyncio.sleep(0.005)
        await runtime.models.wait_ready()
        started.set()
        await tasks[0]
        if admin is not None:
            admin.should_exit = True
        await asyncio.gather(*tasks)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(PATIENCE_S)
        app: FastAPI = server.config.app  # type: ignore[assignment]
        admin_port = for_admin.getsockname()[1] if for_admin is not None else 0
        yield Running(listening.getsockname()[1], admin_port, runtime, app, loops[0])
    finally:
        server.handle_exit(15, None)
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def tiny_settings(folder: Path, **changes: object) -> Settings:
    """Return settings that serve the tiny model out of this folder, with changes."""
    from tests.service.tiny_model import tiny_model

    path = folder / "tiny" / "1.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(tiny_model())
    options: dict[str, object] = {"model": folder, "device": "cpu", "request_timeout_ms": PATIENCE_S * 1000}
    return Settings(**(options | changes))  # type: ignore[arg-type]
