"""`fieldmark serve`: uvicorn with a drain of our own.

uvicorn stops by closing its sockets first: a load balancer that has not noticed yet gets refused connections. It ends
by raising the signal again (exit code 143). This server keeps listening, answers new work with 503 and
`Connection: close`, finishes what was accepted, and exits with 0.
"""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
import time
from types import FrameType
from typing import Any, Literal

import uvicorn

from service.inference.models import check_there
from service.inference.runtime import Runtime
from service.inference.sessions import ModelRejected, runtime, wants_cuda
from service.logs import configure_logs
from service.settings import Settings

KEEP_ALIVE_S = 75
"""How long an idle connection is kept: longer than the usual 60 s of a load balancer, which must close first."""
BACKLOG = 2048
QUIET_S = 0.25
"""How long no request must have arrived before the socket closes, seconds."""
MOST_QUIET_S = 2.0
"""How long to wait for that after the last accepted request was answered, seconds."""

_RELOAD: signal.Signals | None = getattr(signal, "SIGHUP", None)
"""The signal that reloads the models; Windows has none."""

logger = logging.getLogger(__name__)


class DrainingServer(uvicorn.Server):
    """uvicorn's server, stopping in an order that loses no request.

    Args:
        config: of uvicorn.
        runtime: counts the requests in flight; set to draining when the service is stopping.
        grace_s: time for accepted requests to finish, seconds.

    Attributes:
        exit_code: 0 after a clean stop, 1 where no model could be loaded.
        runtime: as given.
    """

    def __init__(self, config: uvicorn.Config, runtime: Runtime, grace_s: float) -> None:
        super().__init__(config)
        self.exit_code = 0
        self.runtime = runtime
        self._grace_s = grace_s
        self._stop_by: float | None = None
        self._quiet_since: float | None = None
        self._done_since: float | None = None
        self._answered = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start draining at the first signal, stop at once at the second."""
        if self._stop_by is not None:
            self.force_exit = self.should_exit = True
            return
        self._stop_by = time.monotonic() + self._grace_s

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop now: a signal came and nothing is in flight any more, or there is nothing to serve."""
        if await super().on_tick(counter):
            return True
        if self.runtime.models.failed is not None:
            logger.error("%s", self.runtime.models.failed)
            self.exit_code = 1
            return True
        if self._stop_by is None:
            return False
        if not self.runtime.draining:
            self._begin_drain()
        return self._is_quiet() or time.monotonic() >= self._stop_by

    def _is_quiet(self) -> bool:
        """Return whether nothing is in flight and no request has arrived for a moment; new ones are refused with 503.

        A connection that arrives just as the socket closes is reset. Clients that keep sending requests are waited for
        only so long.
        """
        now, answered = time.monotonic(), self.server_state.total_requests
        if self.runtime.load.requests:
            self._quiet_since = self._done_since = None
            return False
        self._done_since = self._done_since or now
        if self.server_state.tasks or self._quiet_since is None or answered != self._answered:
            self._quiet_since, self._answered = now, answered
        return now - self._quiet_since >= QUIET_S or now - self._done_since >= MOST_QUIET_S

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close sockets, then connections, giving unfinished answers what is left of the grace.

        uvicorn closes both at once, and a client that has just connected loses its request. Here the system's queue of
        connections is first made as short as possible, and emptied; clients connected by then have a moment to send
        their request, and get a 503.
        """
        for listening in sockets or []:
            listening.listen(0)
        await asyncio.sleep(QUIET_S)
        for server in self.servers:
            server.close()
        await asyncio.sleep(QUIET_S)
        left_s = (self._stop_by or 0.0) - time.monotonic()
        self.config.timeout_graceful_shutdown = max(1, int(left_s))
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # the grace is over for clients still sending or reading
        await asyncio.sleep(0)

    def _begin_drain(self) -> None:
        self.runtime.draining = True
        logger.info("stopping: %d requests in flight are finished first", self.runtime.load.requests)
        for connection in self.server_state.connections:
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and not cycle.response_complete:
                cycle.keep_alive = False


def serve(settings: Settings) -> int:
    """Serve until a signal.

    Returns:
        Exit code: 0 after a stop by signal, 1 where serving was not possible.
    """
    # The first process of a container ignores a signal without a handler, and loading takes seconds.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if _RELOAD is not None:
        signal.signal(_RELOAD, signal.SIG_IGN)  # models are loaded anyway when serving begins
    configure_logs(settings)
    try:
        check_there(settings)
        runtime()
        wants_cuda(settings)
        listening = listen(settings.host, settings.port)
        for_admin = listen(settings.host, settings.admin_port) if settings.admin_port else None
    except (ModelRejected, OSError) as error:
        logger.error("cannot serve: %s", error)
        return 1
    server, admin = make_servers(Runtime(settings))
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(_serve(server, listening, admin, for_admin))
    return server.exit_code


def make_servers(runtime: Runtime) -> tuple[DrainingServer, uvicorn.Server | None]:
    """Return the server of the application, and that of the second port if there is one; not yet listening."""
    from service.http.app import create_admin_app, create_app  # after the ports are taken: most of the start-up time
    from service.http.protocol import limited_protocol

    settings = runtime.settings

    def config(app: Any, lifespan: Literal["on", "off"]) -> uvicorn.Config:
        return uvicorn.Config(
            app,
            http=limited_protocol(settings),
            ws="none",
            lifespan=lifespan,
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,  # nothing here uses the client's address or scheme
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
        )

    server = DrainingServer(config(create_app(runtime), "on"), runtime, settings.shutdown_grace_s)
    admin_app = create_admin_app(runtime)
    if admin_app is None:
        return server, None
    admin = uvicorn.Server(config(admin_app, "off"))
    admin.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]  # the main server gets them
    return server, admin


async def _serve(
    server: DrainingServer,
    listening: socket.socket,
    admin: uvicorn.Server | None,
    for_admin: socket.socket | None,
) -> None:
    beside = [_announce(server.runtime, listening)]
    if _RELOAD is not None:
        beside.append(_reload_on(_RELOAD, server.runtime))
    tasks = [asyncio.create_task(work) for work in beside]
    admin_tasks = []
    if admin is not None and for_admin is not None:
        admin_tasks.append(asyncio.create_task(admin.serve(sockets=[for_admin])))
    try:
        await server.serve(sockets=[listening])
    finally:
        if admin is not None:
            admin.should_exit = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *admin_tasks, return_exceptions=True)


async def _reload_on(number: signal.Signals, runtime: Runtime) -> None:
    """Reload the models at each signal: once more for all signals that come during a reload."""
    pending = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(number, pending.set)
    try:
        while await pending.wait():
            pending.clear()
            try:
                report = await runtime.models.reload()
            except Exception:
                logger.exception("reloading the models failed; the loaded ones stay")
            else:
                logger.info("reloaded the models: %s", report)
    finally:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


async def _announce(runtime: Runtime, listening: socket.socket) -> None:
    try:
        await runtime.models.wait_ready()
    except ModelRejected:
        return
    gc.collect()
    gc.freeze()  # objects that live as long as the service need no further collections
    gc.set_threshold(10_000)  # a request leaves hardly any cycles, but would trigger a collection every other time
    address = _address(*listening.getsockname()[:2])
    names = ", ".join(f"{served.name}/{served.version}" for served in runtime.models.served())
    logger.info("ready on http://%s, %s with %s", address, runtime.status()["provider"], names)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    A restart needs `SO_REUSEADDR`, or it would have to wait for old connections. With it, two processes may bind one
    port as long as neither listens; and the event loop, which would listen later, does not always report a failure. So
    the socket listens here, at once.

    Raises:
        OSError: the address cannot be bound; the message names host and port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    is_dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=is_dual)
    except (OSError, UnicodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        reason = reason.partition(" (while attempting")[0]  # it names the address again
        raise OSError(f"{_address(host, port)}: {reason[:1].lower()}{reason[1:]}") from error


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
