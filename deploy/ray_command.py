"""`python -m deploy.ray_serve`: starts Ray or finds a cluster, deploys the service, watches and drains it.

Ray's own `serve run` does so, too, but shows a fault as its stack traces, ends with 0 after it, and at the end drops
what it has accepted.
"""

import argparse
import contextlib
import logging
import os
import re
import signal
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from pydantic import Field, ValidationError
from ray import serve
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException

from deploy import ray_serve
from deploy.ray_serve import GATHER_S, NAME, RaySettings, Refused, build
from model import terminal
from service.errors import FieldmarkError
from service.http.server import listen
from service.logs import configure_logs
from service.settings import MIB, Settings

CONNECT_S = 5.0
"""How long a cluster has to answer, seconds."""
MOST_CHARACTERS = 400
"""Of what Ray says of a fault."""
LOOK_S, QUIET_LOOKS = 0.2, 5
"""While draining: how often the replicas are looked at, and how often nothing must be in flight before the end."""
KEEP_ALIVE_S = 75
"""How long the proxies keep an idle connection: as `service.http.server` does."""

logger = logging.getLogger("fieldmark.ray")


class CommandSettings(RaySettings):
    """Where the command runs it."""

    address: str = Field("", description="HOST:PORT of a cluster; without it a Ray of its own starts on this machine.")
    temp_dir: Path | None = Field(None, description="Folder of that Ray's logs and sockets; a short path.")
    object_store_bytes: int = Field(
        256 * MIB, ge=80 * MIB, description="Shared memory of that Ray, for bodies on their way to a replica."
    )
    dashboard: bool = Field(False, description="Ray's dashboard, on port 8265 of this machine.")


class _Command:
    """Deploys, watches and drains the application; ends with a signal.

    Args:
        options: of the replicas.
        settings: of the service.
    """

    def __init__(self, options: CommandSettings, settings: Settings) -> None:
        self._options = options
        self._settings = settings
        self._stopped = threading.Event()
        self._actors: dict[str, Any] = {}
        self._port = settings.port

    def run(self) -> int:
        """Serve until a signal.

        Raises:
            Refused: it cannot be served.
        """
        application = build(self._options, self._settings)
        if not self._options.address:
            with listen(self._settings.host, self._settings.port) as probe:  # Ray would fail in another process
                self._port = probe.getsockname()[1]
        try:
            _start(self._options)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self._stopped.set())
            self._deploy(application)
            logger.info("ready on http://%s:%d", self._settings.host, self._port)
            while not self._stopped.wait(1):
                self._watch()
            self._drain()
        finally:
            if ray.is_initialized():
                self._remove()
        return 0

    def _deploy(self, application: serve.Application) -> None:
        settings = self._settings
        # A body that never ends, which the proxy would wait for: ended when ours would have been.
        timeout_s = settings.header_timeout_s + settings.body_timeout_s + settings.request_timeout_ms / 1000
        http = HTTPOptions(
            host=settings.host, port=self._port, request_timeout_s=timeout_s, keep_alive_timeout_s=KEEP_ALIVE_S
        )
        try:
            serve.start("EveryNode", http, logging_config={"enable_access_log": False})
            self._handle = serve.run(application, name=NAME)
        except (RuntimeError, RayError) as error:
            raise Refused(reason("\n".join([str(error), *_messages()]))) from None

    def _watch(self) -> None:
        """Log which replicas have come and gone since the last look, and why they have gone."""
        found = self._all("named")
        if any(isinstance(one, TimeoutError) for one in found):
            return  # busy, not gone
        names = dict(one for one in found if not isinstance(one, BaseException))
        for replica, actor in names.items():
            if replica not in self._actors:
                self._actors[replica] = ray.get_actor(actor, "serve")
                logger.info("replica %s answers", replica)
        for replica in self._actors.keys() - names.keys():
            if (fate := _fate(self._actors[replica])) is not None:
                del self._actors[replica]
                logger.log(*fate, replica)

    def _drain(self) -> None:
        """Have every replica refuse new work, and wait until accepted requests are answered."""
        until = time.monotonic() + self._settings.shutdown_grace_s
        quiet = 0
        while quiet < QUIET_LOOKS and time.monotonic() < until:
            quiet = quiet + 1 if not any(self._all("drain")) else 0
            time.sleep(LOOK_S)
        self._all("end")

    def _all(self, method: str) -> list[Any]:
        """Return the results of a method of every replica; faults stand in their place."""
        try:
            return self._handle.broadcast(method).results(timeout_s=GATHER_S, return_exceptions=True)
        except (TimeoutError, RayError, RayServeException) as error:
            logger.warning("the replicas do not answer: %s", type(error).__name__)
            return [error]

    def _remove(self) -> None:
        """Take the application from a cluster; of a Ray of our own nothing is left anyway.

        An application that is deleted answers 404 until the proxy ends, one whose Ray ends refuses connections.
        """
        if self._options.address:
            serve.delete(NAME)
        ray.shutdown()


def _start(options: CommandSettings) -> None:
    """Start Ray on this machine, or connect to a cluster.

    Raises:
        Refused: there is none, its versions are others, or it does not start.
    """
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 is for jobs of which nobody waits for an answer
    common: dict[str, Any] = {"log_to_driver": True, "logging_level": logging.ERROR}
    try:
        if options.address:
            _check_answers(options.address)
            ray.init(options.address, **common)
            return
        ray.init(
            "local",
            include_dashboard=options.dashboard,
            object_store_memory=options.object_store_bytes,
            _temp_dir=str(options.temp_dir.absolute()) if options.temp_dir else None,
            **common,
        )
    except Refused:
        raise
    except (OSError, OverflowError):
        raise Refused(f"no Ray cluster answers at {options.address}") from None
    except Exception as error:  # Ray raises bare exceptions: other versions, a raylet that did not start
        raise Refused(f"Ray does not start: {reason(str(error))}") from None


def _check_answers(address: str) -> None:
    """Raise unless somebody listens there: Ray itself would try for ten minutes.

    Raises:
        Refused: the address is none.
        OSError: nobody does.
    """
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdecimal() or "/" in address:
        raise Refused(f"address: HOST:PORT of the cluster's head is needed, or auto, not {address!r}")
    socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()


def _messages() -> list[str]:
    """Return what Ray says of the deployment."""
    with contextlib.suppress(RayError, RayServeException):
        found = serve.status().applications
        return [one.message for one in found[NAME].deployments.values()] if NAME in found else []
    return []


def reason(text: str) -> str:
    """Return what we say in a traceback of Ray; else its beginning: it names versions that differ one a line."""
    ours = re.findall(r"Refused: (.+)", text)
    return ours[-1] if ours else textwrap.shorten(text, MOST_CHARACTERS)


def _fate(actor: Any) -> tuple[int, str] | None:
    """Return how a replica has ended, as level and message to log; None as long as it lives."""
    try:
        ray.get(actor.__ray_ready__.remote(), timeout=1)
    except ActorDiedError as error:
        how = str(error).partition("Some common causes")[0]
        if "ray.kill" in how or "INTENDED" in how:
            return logging.INFO, "replica %s is drained and has ended"
        cause = "was killed by a signal (by the kernel, if `dmesg` says so: out of memory) or has crashed"
        if "memory" in how:
            cause = "was killed by Ray: its node is out of memory"
        elif "node has died" in how:
            cause = "is gone with its node"
        return logging.ERROR, f"replica %s {cause}; another one is started"
    except (GetTimeoutError, RayError):
        return None
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 done, 1 failed, 2 wrong usage."""
    return terminal.run(lambda: _main(arguments), lambda message: _fail(message, 1))


def _main(arguments: Sequence[str] | None) -> int:
    try:
        given = vars(_parser().parse_args(arguments))
        options = CommandSettings(**{name: given[name] for name in given.keys() & CommandSettings.model_fields.keys()})
        settings = Settings(**{name: given[name] for name in given.keys() & Settings.model_fields.keys()})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        what = ".".join(map(str, fault["loc"]))
        return _fail(f"{what}: {fault['msg'].removeprefix('Value error, ')}".removeprefix(": "), 2)
    configure_logs(settings)
    logging.getLogger("ray.serve").addFilter(lambda record: record.levelno >= logging.WARNING)
    try:
        return _Command(options, settings).run()
    except (Refused, FieldmarkError) as error:
        return _fail(f"cannot serve: {error}", 1)


def _fail(message: str, code: int) -> int:
    print(f"fieldmark: {terminal.one_line(message)}", file=sys.stderr)  # noqa: T201 - the command's answer
    return code


def _parser() -> argparse.ArgumentParser:
    parser = terminal.Parser(prog="python -m deploy.ray_serve", description=ray_serve.__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    fields = {name: Settings.model_fields[name] for name in ("model", "host", "port", "device", "precision")}
    for name, field in (fields | CommandSettings.model_fields).items():
        default = "" if field.default in ("", None) else f" [{field.default}]"
        parser.add_argument(
            f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, metavar=name.rsplit("_", 1)[-1].upper(),
            help=f"{field.description}{default}",
        )  # fmt: skip
    return parser
