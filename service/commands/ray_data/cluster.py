"""A connection to Ray: to a cluster that is running, or to one of this machine that lives as long as the command.

Source: https://docs.ray.io/en/latest/ray-core/api/doc/ray.init.html.
"""

import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayTaskError,
    WorkerCrashedError,
)

from model.terminal import one_line
from service.commands.ray_data.actor import WorkerRefused
from service.errors import InvalidOption
from service.inference.cpus import usable_cores

LOCAL = "local"
_CONNECT_S = 10
_OBJECT_STORE_BYTES = 256 << 20
"""Names and rows alone are in it; by default Ray takes 30% of the memory."""
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
    "RAY_task_oom_retries": "3",  # of a batch whose worker was killed for want of memory; without end by default
    "RAY_worker_niceness": "0",  # 15 by default, so that any other program would stop the work
}


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a cluster for the duration of a command.

    Args:
        address: HOST:PORT; `auto` finds this machine's; `local` starts one.

    Raises:
        InvalidOption: there is none, or it is of another version.
    """
    if address.startswith("ray://"):
        raise InvalidOption(
            f"--ray {address}: Ray Data needs HOST:PORT, and the command on a machine of the cluster: start it there, "
            "or with `ray job submit`."
        )
    if address not in (LOCAL, "auto"):
        _check_answers(address)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        with _without_start_up_lines():
            _init(address)
    except Exception as error:  # Ray raises its root class, too
        raise InvalidOption(f"--ray {address}: {_why_not(str(error))}") from error
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # where Ray prints each worker that it kills
        try:
            yield
        finally:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Refuse an address where nothing listens, for which Ray would wait a minute.

    Raises:
        InvalidOption: that, or it is none.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InvalidOption(f"--ray {address}: an address is HOST:PORT, `auto` or `local`.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise InvalidOption(f"--ray {address}: no cluster answers there ({error}).") from error


def _init(address: str) -> None:
    quiet: Any = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": False}
    if address != LOCAL:
        ray.init(address=address, **quiet)
        return
    ray.init(
        address=LOCAL,
        num_cpus=usable_cores(),
        object_store_memory=_OBJECT_STORE_BYTES,
        include_dashboard=False,
        **quiet,
    )


@contextmanager
def _without_start_up_lines() -> Iterator[None]:
    """Close the standard error to Ray's library, which reports its own log level there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _why_not(text: str) -> str:
    """Return why there is no connection, without Ray's advice."""
    if versions := re.search(r"started with:\s*Ray: (\S+)\s*Python: (\S+).*started with:\s*Ray: (\S+)\s*Python: (\S+)",
                             text, re.DOTALL):  # fmt: skip
        there, python_there, here, python_here = versions.groups()
        return (
            f"the cluster has Ray {there} and Python {python_there}, this machine Ray {here} and Python {python_here}."
        )
    if "Failed to connect" in text:
        return "what listens there does not let this machine in: is it Ray, and does it want RAY_AUTH_MODE and a token?"
    if "timed out during startup" in text:
        return "Ray did not start in the time that it gives itself: this machine is too busy, or short of memory."
    return one_line(text)


def actors_of(gpus: float) -> tuple[int, int]:
    """Return how many actors the cluster has room for now, and the cores of each.

    Args:
        gpus: of each actor; 0 for one core each.
    """
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cores = max(1, int(found.get("CPU", 0)))
    if not gpus:
        return cores, 1
    actors = max(1, int(found.get("GPU", 0) / gpus))
    return actors, max(1, cores // actors)


def why_failed(error: BaseException) -> str:
    """Return why a run on a cluster failed, in one line that says which worker.

    Args:
        error: as Ray Data raises it.
    """
    causes = list(_causes(error))
    place = next(filter(None, (_place_of(str(cause)) for cause in causes)), "")
    for cause in causes:
        if isinstance(cause, WorkerRefused) and not isinstance(cause, RayTaskError):  # Ray's is of both, with a trace
            return str(cause).splitlines()[0]  # below it is what Ray Data says of its tries
    for cause in causes:
        text = str(cause)
        if refused := re.search(r"WorkerRefused: (.+)", text):  # an error that Ray passed on as text
            return refused[1]
        if "No module named 'service'" in text or "No module named 'model'" in text:
            return "a worker has no fieldmark: all machines need the same version, with the extras `cpu` and `ray`."
        if isinstance(cause, OutOfMemoryError) or "running low on memory" in text:  # as an actor died
            return f"a worker{place} ran out of memory again and again."
        if isinstance(cause, ActorDiedError | ActorUnavailableError | WorkerCrashedError):
            return f"a worker{place} died again and again."
        if isinstance(cause, ObjectStoreFullError | OutOfDiskError):
            return "Ray's object store is full."
    return f"Ray failed: {one_line(str(causes[-1]))[:300]}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__


def _place_of(text: str) -> str:
    """Return where a worker was, as Ray's text says it; which one it was, where the text says no more."""
    if found := re.search(r"(?:\bip: |IP: |on node \(IP: )([0-9A-Fa-f.:]+)", text):
        return f" on {found[1].rstrip('.,:')}"
    actor = re.search(r"\bactor ([0-9a-f]{12})", text)
    return f" (Ray's actor {actor[1]})" if actor else ""
