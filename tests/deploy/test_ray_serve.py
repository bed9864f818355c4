"""The service on a real Ray of this machine: two replicas behind Ray's proxy, killed, swapped and drained."""

import os
import shutil
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.settings import BUNDLED_MODEL
from tests.deploy.conftest import free_port, served, wait_until

pytest.importorskip("ray.serve", reason="the extra `ray` is not installed")


pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MODEL = next(BUNDLED_MODEL.glob("*/2.onnx"))
WITHIN_S = 150
"""How long a start may take on a busy machine, seconds."""
TRIES = 3
"""Of a client, for one request."""


@dataclass(frozen=True)
class Cluster:
    """A running command.

    Attributes:
        url: of Ray's proxy.
        process: of the command.
        models: folder that it serves.
        log: what it has printed.
    """

    url: str
    process: psutil.Process
    models: Path
    log: Path

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Return labels and values of one metric, of all replicas."""
        families = text_string_to_metric_families(httpx.get(f"{self.url}/metrics", timeout=30).text)
        return [(one.labels, one.value) for family in families for one in family.samples if one.name == name]

    def classified(self) -> Counter[str]:
        """Return how many photos each replica has classified."""
        found: Counter[str] = Counter()
        for labels, value in self.samples("fieldmark_http_requests_total"):
            if (labels["route"], labels["code"]) == ("/classify", "200"):
                found[labels["replica"]] += int(value)
        return found

    def versions(self) -> dict[str, str]:
        """Return the newest version of the model in each replica."""
        return {one["replica"]: one["version"] for one, _ in sorted(self.samples("fieldmark_model_info"), key=str)}

    def replicas(self) -> list[psutil.Process]:
        """Return the replicas' processes, ready ones and others."""
        every = self.process.children(recursive=True)
        return [one for one in every if one.is_running() and "ray::ServeReplica" in " ".join(one.cmdline())]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the settings of both services: eight requests in one process, and a thread a run, alone or not."""
    models = tmp_path_factory.mktemp("models")
    (models / "cub50").mkdir()
    shutil.copy(MODEL, models / "cub50" / "2.onnx")
    limits = {"FIELDMARK_MAX_REQUESTS": "8", "FIELDMARK_CPU_RUNS": "1"}
    return {"FIELDMARK_MODEL": str(models), "FIELDMARK_POLL_INTERVAL_S": "0.5", **limits}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, settings: dict[str, str]) -> Iterator[Cluster]:
    """Start Ray with two replicas, once for the module; its sockets need a short path."""
    folder = tmp_path_factory.mktemp("ray")
    short = Path("/tmp") / f"fm{os.getpid()}"  # noqa: S108 - a socket's path may have 107 characters
    port = free_port()
    command = [sys.executable, "-m", "deploy.ray_serve", "--port", str(port), "--temp-dir", str(short)]
    command += ["--min-replicas", "2", "--max-replicas", "2", "--num-cpus", "0.5"]
    log, address = folder / "log", f"http://127.0.0.1:{port}"
    with served(command, address, log, {**settings, "PYTHONPATH": str(ROOT)}, within_s=WITHIN_S):
        (process,) = (one for one in psutil.Process().children() if one.cmdline()[1:3] == command[1:3])
        found = Cluster(address, process, Path(settings["FIELDMARK_MODEL"]), log)
        wait_until(lambda: len(found.versions()) == 2, "two replicas", WITHIN_S)
        yield found
    shutil.rmtree(short, ignore_errors=True)


def load(url: str, photo: bytes, seconds: float, clients: int = 8, tries: int = TRIES) -> Callable[[], Counter[str]]:
    """Start clients that post a photo again and again; return a function that waits for them.

    It returns the answers that clients had in the end, by status or fault: a client tries again where the connection
    broke or the service failed.
    """
    found: Counter[str] = Counter()
    stop = threading.Event()
    timer = threading.Timer(seconds, stop.set)

    def last_answer(client: httpx.Client) -> str:
        last = ""
        for _ in range(tries):
            try:
                last = str(client.post(f"{url}/classify", content=photo).status_code)
            except httpx.TransportError as error:
                last = type(error).__name__
            if last[0] in "24":
                break
        return last

    def post() -> None:
        with httpx.Client(timeout=60) as client:
            while not stop.is_set():
                found[last_answer(client)] += 1

    threads = [threading.Thread(target=post) for _ in range(clients)]
    for thread in (*threads, timer):
        thread.start()

    def wait() -> Counter[str]:
        for thread in threads:
            thread.join()
        return found

    return wait


@pytest.fixture(scope="module")
def plain(serve: Callable[..., str], settings: dict[str, str]) -> str:
    """Return the address of `fieldmark serve` with the same settings."""
    return serve(**settings)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/classify?top_k=3&marks=3"),
        ("POST", "/explain?versus=rank:2&view=panel"),
        ("POST", "/classify?top_k=0"),
        ("POST", "/classify?model=nix"),
        ("GET", "/nix"),
        ("GET", "/openapi.json"),
        ("GET", "/"),
    ],
)
def test_answers_are_those_of_fieldmark_serve(
    cluster: Cluster, plain: str, bird: Path, method: str, target: str
) -> None:
    """Status, body and header are byte for byte the same, but for times and what the connection needs."""
    ids = {"X-Request-Id": "the-same"}
    body = bird.read_bytes() if method == "POST" else b""
    expected, actual = (
        httpx.request(method, url + target, content=body, headers=ids, timeout=60) for url in (plain, cluster.url)
    )
    assert (expected.status_code, expected.content) == (actual.status_code, actual.content)
    left_out = {"date", "server", "server-timing", "connection", "transfer-encoding"}
    assert {name: value for name, value in expected.headers.items() if name not in left_out} == {
        name: value for name, value in actual.headers.items() if name not in left_out
    }


def test_load_spreads(cluster: Cluster, bird: Path) -> None:
    """Neither of two replicas gets less than 40%."""
    before = cluster.classified()
    assert set(load(cluster.url, bird.read_bytes(), 5)()) == {"200"}
    counts = cluster.classified() - before
    assert (len(counts), min(counts.values()) >= 0.4 * counts.total()) == (2, True), counts


def test_bounds_hold_behind_the_proxy(cluster: Cluster, bird: Path) -> None:
    """Too many bytes, declared or not, a deadline that has passed, and more clients than are admitted."""
    photo, parts = bird.read_bytes(), [bytes(1 << 20)] * 30
    large = httpx.post(f"{cluster.url}/classify", content=b"".join(parts), timeout=60)
    undeclared = httpx.post(f"{cluster.url}/classify", content=iter(parts), timeout=60)
    late = httpx.post(f"{cluster.url}/classify", content=photo, headers={"X-Request-Timeout-Ms": "1"}, timeout=60)
    codes = [(one.status_code, one.json()["code"]) for one in (large, undeclared, late)]
    assert codes == [(413, "too_large")] * 2 + [(504, "deadline_exceeded")]
    assert set(load(cluster.url, photo, 2, clients=48)()) == {"200", "429"}


def test_killed_replica_costs_nothing(cluster: Cluster, bird: Path) -> None:
    """Clients that retry twice get every answer, another replica starts, and one line says what happened."""
    killed = cluster.replicas()[0]
    finished = load(cluster.url, bird.read_bytes(), 5)
    wait_until(lambda: cluster.classified().total() > 0, "load")
    killed.kill()
    assert set(finished()) == {"200"}
    wait_until(lambda: len(cluster.versions()) == 2, "another replica", WITHIN_S)
    lines = [line for line in cluster.log.read_text().splitlines() if "was killed by a signal" in line]
    assert len(lines) == 1


def test_models_are_swapped_in_every_replica(cluster: Cluster, bird: Path) -> None:
    """A new file answers everywhere within two polls and its loading, and no request is lost."""
    finished = load(cluster.url, bird.read_bytes(), 4, clients=4)
    part = cluster.models / "cub50" / ".part"
    shutil.copy(MODEL, part)
    part.rename(part.with_name("3.onnx"))
    wait_until(lambda: list(cluster.versions().values()) == ["3", "3"], "version 3 in both replicas", within_s=20)
    assert set(finished()) == {"200"}


def test_stop_finishes_what_was_accepted(cluster: Cluster, bird: Path) -> None:
    """At SIGTERM a request in flight is answered, later ones get a 503 until the end, and the command exits with 0."""
    photo = bird.read_bytes()
    head = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(photo)}\r\n\r\n".encode()
    port = int(cluster.url.rpartition(":")[2])
    in_flight = lambda: sum(value for _, value in cluster.samples("fieldmark_requests_in_flight"))  # noqa: E731
    with socket.create_connection(("127.0.0.1", port), 60) as slow:
        slow.sendall(head + photo[:-1])
        wait_until(lambda: in_flight() == 1, "a request in flight")
        cluster.process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{cluster.url}/readyz", timeout=30).status_code == 503, "draining")
        refused = httpx.post(f"{cluster.url}/classify", content=photo, timeout=30)
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        slow.sendall(photo[-1:])
        assert slow.recv(15) == b"HTTP/1.1 200 OK"
    assert cluster.process.wait(60) == 0
