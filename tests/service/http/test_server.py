"""The process `fieldmark serve`: started, loaded with requests, stopped."""

import base64
import json
import lzma
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.commands.bench.servers import Server, wait_ready
from service.http.server import listen
from tests.service.conftest import encoded
from tests.service.http.test_admission import Caller, until
from tests.service.running import running, tiny_settings
from tests.service.tiny_model import marked_manifest, tiny_model

COMMAND = (
    "import sys; from service.http.server import serve; from service.settings import Settings; "
    "sys.exit(serve(Settings()))"
)
PHOTO = encoded("red")
VERSION_1 = Path(__file__).parents[2] / "data" / "version1.onnx.xz"
"""A file that was exported when the contract had its first version."""


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(folder: Path, **settings: object) -> dict[str, str]:
    """Return the environment of a server of the tiny model."""
    path = folder / "tiny" / "1.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(tiny_model())
    named = {"model": folder, "device": "cpu", "log_level": "warning", "log_format": "json", **settings}
    return {**os.environ, **{f"FIELDMARK_{name.upper()}": str(value) for name, value in named.items()}}


def start(env: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start a server process."""
    return subprocess.Popen([sys.executable, "-c", COMMAND], env=env, stderr=subprocess.PIPE)


@dataclass
class Process:
    """A server process; has a port like a server in a thread."""

    port: int
    popen: "subprocess.Popen[bytes]"

    def connect(self) -> socket.socket:
        """Return a bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def stop(self) -> tuple[int, str]:
        """Stop it; return its exit code and what it logged."""
        self.popen.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        """Return exit code and log at its end."""
        _, log = self.popen.communicate(timeout=60)
        return self.popen.returncode, log.decode()


@contextmanager
def process(folder: Path, **settings: object) -> Iterator[Process]:
    """Serve the tiny model in a process of its own."""
    port = free_port()
    popen = start(environment(folder, port=port, **settings))
    try:
        wait_ready(Server(f"http://127.0.0.1:{port}", popen))
        yield Process(port, popen)
    finally:
        popen.kill()
        popen.communicate()


@dataclass
class Load:
    """Clients that send requests until one is refused, and the outcome of each request."""

    server: Process
    codes: list[int] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, clients: int) -> None:
        """Start sending."""
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until every client was refused, or could not connect."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _ask(self) -> None:
        while True:
            try:
                caller = Caller(self.server)  # type: ignore[arg-type]
            except OSError:
                return  # nothing listens any more: nothing was accepted
            try:
                caller.send()
                self.codes.append(caller.read().status)
            except (OSError, AssertionError) as error:
                self.lost.append(repr(error))
                return
            finally:
                caller.socket.close()
            if self.codes[-1] != 200:
                return


def test_sigterm_under_load_loses_nothing(tmp_path: Path) -> None:
    """Accepted requests are answered, new ones get 503, an idle connection holds nothing up; the exit code is 0."""
    with process(tmp_path) as server:
        idle = Caller(server)  # type: ignore[arg-type]
        idle.send()
        assert idle.read().status == 200
        load = Load(server)
        load.start(8)
        until(lambda: len(load.codes) >= 40)
        code, log = server.stop()
        load.join()
        idle.socket.close()
        assert (0, []) == (code, load.lost)
        assert {200, 503} >= set(load.codes)
        assert "Traceback" not in log


def test_ctrl_c_and_second_port(tmp_path: Path) -> None:
    """Metrics and administration have a port of their own, which stops with the first; Ctrl-C ends with 0."""
    admin_port = free_port()
    with process(tmp_path, admin_port=admin_port) as server:
        admin = Server(f"http://127.0.0.1:{admin_port}")
        assert b"fieldmark_model_info" in admin.get("/metrics")
        server.popen.send_signal(signal.SIGINT)
        code, log = server.wait()
        assert code == 0
        assert "Traceback" not in log
        with pytest.raises(OSError):
            admin.get("/metrics")


def test_sighup_reloads_the_models_and_loses_nothing(tmp_path: Path) -> None:
    """Under load every request is answered 200, a new version answers, and one whose file was removed is retired."""
    with process(tmp_path, poll_interval_s=3600) as server:
        admin = Server(f"http://127.0.0.1:{server.port}")

        def versions() -> list[str]:
            return [model["version"] for model in json.loads(admin.get("/models"))["models"]]

        def asked(count: int) -> None:
            enough = len(load.codes) + count
            until(lambda: len(load.codes) >= enough or bool(load.lost))

        load = Load(server)
        load.start(4)
        asked(20)
        for number in range(2, 6):
            (tmp_path / "tiny" / f"{number}.onnx").write_bytes(tiny_model())
            server.popen.send_signal(signal.SIGHUP)
            until(lambda number=number: versions()[0] == str(number))
            asked(10)
        for number in range(1, 5):
            (tmp_path / "tiny" / f"{number}.onnx").unlink()
        for _ in range(20):
            server.popen.send_signal(signal.SIGHUP)
        until(lambda: versions() == ["5"])
        asked(20)
        assert ({200}, []) == (set(load.codes), load.lost)
        code, log = server.stop()
        load.join()
        assert (0, []) == (code, load.lost)
        assert "Traceback" not in log


ENCODED = {"name": "encoded", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(PHOTO).decode()]}
CALLS: dict[str, dict[str, Any]] = {
    "/classify": {"content": PHOTO},
    "/explain?versus=rank:2&values=true": {"content": PHOTO, "headers": {"Accept": "application/json"}},
    "/explain?view=panel": {"content": PHOTO},
    "/v2/models/tiny/infer": {"json": {"inputs": [ENCODED]}},
    "/classify?marks=3": {"content": PHOTO},
}


def version_of(answer: httpx.Response) -> str:
    """Return which version answered, or the code of its problem."""
    if answer.headers["content-type"] == "image/png":
        return answer.headers["x-fieldmark-model"].removeprefix("tiny/")
    document = answer.json()
    found: str = document.get("code") or document.get("model_version") or document["model"]["version"]
    return found


def test_version_1_is_swapped_for_2_and_back_under_load(tmp_path: Path) -> None:
    """A file of the first schema is replaced by one with marks and back: each request is answered by one of them."""
    with process(tmp_path, poll_interval_s=3600) as server:
        (tmp_path / "tiny" / "1.onnx").write_bytes(lzma.decompress(VERSION_1.read_bytes()))
        server.popen.send_signal(signal.SIGHUP)
        answers: dict[str, list[str]] = {path: [] for path in CALLS}
        lost: list[str] = []
        done = threading.Event()

        def ask(path: str, call: dict[str, Any]) -> None:
            with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client:
                while not done.is_set() and not lost:
                    try:
                        answers[path].append(version_of(client.post(path, **call)))
                    except (httpx.HTTPError, ValueError, KeyError) as error:
                        lost.append(repr(error))

        def answered_by(version: str) -> None:
            counts = {path: len(found) for path, found in answers.items()}
            until(lambda: all(version in found[counts[path] :] for path, found in answers.items()) or bool(lost))

        threads = [threading.Thread(target=ask, args=one) for one in CALLS.items() for _ in range(2)]
        for thread in threads:
            thread.start()
        second = tmp_path / "tiny" / "2.onnx"
        for _ in range(3):
            second.write_bytes(tiny_model(marked_manifest()))
            server.popen.send_signal(signal.SIGHUP)
            answered_by("2")
            second.unlink()
            server.popen.send_signal(signal.SIGHUP)
            until(lambda: {"1", "no_marks"} >= {found[-1] for found in answers.values()} or bool(lost))
        done.set()
        for thread in threads:
            thread.join(60)
        code, log = server.stop()
        assert (0, []) == (code, lost)
        marks = answers.pop("/classify?marks=3")
        assert {"2", "no_marks"} == set(marks)
        assert [{"1", "2"}] * 4 == [set(found) for found in answers.values()]
        assert "Traceback" not in log


def test_unfinished_request_ends_with_the_grace(tmp_path: Path) -> None:
    """A body that never arrives does not keep the process running."""
    with running(tiny_settings(tmp_path, shutdown_grace_s=0.3)) as server:
        caller = Caller(server)
        caller.send(body=b"", length=100)
        until(lambda: server.runtime.load.requests == 1)
    caller.socket.close()


def test_taken_port(tmp_path: Path) -> None:
    """A port in use is reported before anything is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        popen = start(environment(tmp_path, port=taken.getsockname()[1]))
        _, log = popen.communicate(timeout=60)
        assert popen.returncode == 1
        (line,) = log.decode().splitlines()
        assert f"cannot serve: 127.0.0.1:{taken.getsockname()[1]}: address already in use" in line


def test_two_servers_released_at_once_on_one_port(tmp_path: Path) -> None:
    """One of them serves; the other ends with one line that names host and port, also where both bound the port."""
    port, env = free_port(), environment(tmp_path)
    env |= {"FIELDMARK_PORT": str(port), "FIELDMARK_POLL_INTERVAL_S": "3600"}
    waits = COMMAND.replace("sys.exit(", "import service.http.app; print(flush=True); input(); sys.exit(")
    both = [
        subprocess.Popen(
            [sys.executable, "-c", waits],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    try:
        for one in both:
            assert one.stdout is not None
            one.stdout.readline()
        for one in both:
            assert one.stdin is not None
            one.stdin.write(b"\n")
            one.stdin.flush()
        until(lambda: any(one.poll() is not None for one in both))
        (loser,) = [one for one in both if one.returncode is not None]
        (winner,) = [one for one in both if one is not loser]
        (line,) = loser.communicate()[1].decode().splitlines()
        assert (1, True) == (loser.returncode, f"127.0.0.1:{port}: address already in use" in line)
        wait_ready(Server(f"http://127.0.0.1:{port}", winner))
    finally:
        for one in both:
            one.kill()
            one.communicate()


def test_one_socket_takes_the_port() -> None:
    """The returned socket listens already, and no other can take the port; the message names the address."""
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(OSError, match=f"^127.0.0.1:{port}: address already in use"):
            listen("127.0.0.1", port)
        socket.create_connection(("127.0.0.1", port)).close()
    listen("127.0.0.1", port).close()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".example", "300.1.1.1"])
def test_a_host_that_is_none_is_named(host: str) -> None:
    """An address that cannot be bound is an `OSError` of one line with host and port."""
    with pytest.raises(OSError, match=f"^{host}:0: ") as refused:
        listen(host, 0)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "/nowhere"}, "no model at /nowhere"),
        ({"default_model": "tinny"}, "default_model=tinny, but the models at"),
        ({"device": "cuda"}, "device=cuda"),
    ],
)
def test_nothing_to_serve(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    """Without a model, or without the requested GPU, the process exits with 1 and reports why."""
    popen = start(environment(tmp_path, port=free_port(), **settings))
    _, log = popen.communicate(timeout=60)
    (line,) = log.decode().splitlines()
    assert (1, True) == (popen.returncode, message in line)
