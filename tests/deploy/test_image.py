"""The built cpu image: its size, and its service as Docker and Kubernetes would run it, without either.

FIELDMARK_IMAGE_TOOL names a program that builds the Dockerfile in the working folder with buildah under a given tag.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TAG = "fieldmark-test"
BASE = "docker.io/library/python:3.11-slim-bookworm"
BUILDAH = ["buildah", "--storage-driver", "vfs"]
JPEG = {"Content-Type": "image/jpeg"}

# A container's view by the kernel's own means: own mounts and process numbers, root file system read-only, /tmp in
# memory, the models' folder a volume; then no capability, no way to gain one, and user 10001.
CONTAINER = """
mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && mount -t proc proc "$0/proc" &&
mount -t tmpfs tmpfs "$0/tmp" && mount --bind "$1" "$0/models" && shift &&
exec chroot "$0" setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
env -i "$@"
"""


def _buildah(*arguments: str | Path) -> str:
    run = subprocess.run([*BUILDAH, *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.fixture(scope="module")
def container(root: Path) -> Iterator[str]:
    """Build the image; yield the name of a container made of it."""
    tool = os.environ.get("FIELDMARK_IMAGE_TOOL")
    if not tool:
        pytest.skip("FIELDMARK_IMAGE_TOOL is not set: nothing here builds images")
    if shutil.which("buildah") is None or os.geteuid() != 0:
        pytest.skip("building images here needs buildah, and root")
    build = subprocess.run([tool, TAG], cwd=root, capture_output=True, text=True)
    assert build.returncode == 0, (build.stdout + build.stderr)[-4000:]
    name = _buildah("from", f"localhost/{TAG}")
    yield name
    _buildah("rm", name)
    _buildah("rmi", f"localhost/{TAG}")


@pytest.fixture(scope="module")
def config(container: str) -> dict[str, Any]:
    """Return the image's configuration, as Docker reads it."""
    loaded: dict[str, Any] = json.loads(_buildah("inspect", "--type", "container", container))["Docker"]["config"]
    return loaded


@pytest.fixture(scope="module")
def rootfs(container: str) -> Path:
    """Return the container's root file system."""
    return Path(_buildah("mount", container))


@pytest.fixture(scope="module")
def volume(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a new volume for the models: content and owner of the image's folder, as Docker makes it."""
    folder = tmp_path_factory.mktemp("models")
    subprocess.run(["cp", "-a", f"{rootfs / 'models'}/.", folder], check=True)
    return folder


class Running:
    """A container's service that is ready.

    Attributes:
        address: where it answers.
        process: what started it; its exit code is the service's.
        pid: of the service, seen from outside.
    """

    def __init__(self, address: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.address, self.process, self.log = address, process, log
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        self.pid = int(child)

    def stop(self) -> int:
        """Send the process with number 1 what `docker stop` sends; return the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.process.wait(40)


@pytest.fixture
def running(
    rootfs: Path, config: dict[str, Any], volume: Path, tmp_path: Path, wait: Callable[..., None]
) -> Iterator[Running]:
    """Run the image's entry point with its own environment, hardened, on a port of our choice, until ready."""
    port = 18000 + os.getpid() % 1000
    variables = [*config["Env"], f"FIELDMARK_PORT={port}", "FIELDMARK_REQUEST_TIMEOUT_MS=60000"]  # machines are slow
    command = [*variables, *config["Entrypoint"], *config["Cmd"]]
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", CONTAINER, rootfs, volume]
    log = tmp_path / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen([*alone, *command], stdout=sink, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        assert not _is_ready(address)  # nobody else's
        wait(lambda: process.poll() is not None or _is_ready(address), "the container's service gets ready")
        assert process.poll() is None, log.read_text()
        yield Running(address, process, log)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a container: its process number 1, with which all of it goes; the process outside then ends by itself.

    The other way round would leave it running: a change of user clears the signal of a parent's death.
    """
    with suppress(FileNotFoundError, ProcessLookupError):
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_adds_at_most_450_mb(container: str) -> None:
    """The image is at most 450 MB larger than the Python image below it."""
    sizes = {
        f"{image['names'][0]}": int(re.match(r"(\d+) MB", image["size"])[1])  # type: ignore[index]
        for image in json.loads(_buildah("images", "--json"))
        if image.get("names")
    }
    assert sizes[f"localhost/{TAG}:latest"] - sizes[BASE] <= 450


def test_is_configured_for_containers(config: dict[str, Any]) -> None:
    """Unprivileged user, all addresses, exec-form entry point, a health check and labels."""
    assert config["User"] == "10001:10001"
    assert "FIELDMARK_HOST=0.0.0.0" in config["Env"]
    assert (config["Entrypoint"], config["Cmd"]) == (["fieldmark"], ["serve"])
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["Labels"]["org.opencontainers.image.title"] == "fieldmark"


def test_holds_no_torch(container: str) -> None:
    """Nothing of training is in the image."""
    found = _buildah("run", "--isolation", "chroot", container, "--", "find", "/opt/fieldmark", "-name", "torch")
    assert found == ""


def test_runs_as_user_10001_who_owns_the_models(container: str) -> None:
    """The image's user is 10001, and the folder of models is his."""
    script = "id -u; stat -c %u /models /models/*"
    printed = _buildah("run", "--isolation", "chroot", container, "--", "sh", "-c", script)
    assert set(printed.split()) == {"10001"}


def test_answers_a_photo(running: Running, bird: Path) -> None:
    """The service in the image names the class of a posted photo and draws its map."""
    photo = bird.read_bytes()
    answer = httpx.post(f"{running.address}/classify", content=photo, headers=JPEG)
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"][0]["label"]
    overlay = httpx.post(f"{running.address}/explain", content=photo, headers=JPEG, timeout=30)
    assert (overlay.status_code, overlay.headers["Content-Type"]) == (200, "image/png")
    status = Path(f"/proc/{running.pid}/status").read_text()
    assert re.findall(r"^(?:Uid|CapEff|NoNewPrivs):\s+(\w+)", status, re.MULTILINE) == ["10001", "0" * 16, "1"]


def test_health_check_tells_ready_from_silent(running: Running, rootfs: Path, config: dict[str, Any]) -> None:
    """The image's own check succeeds on the running service and fails on a port where nothing answers."""
    check = ["chroot", "--userspec=10001:10001", rootfs, "env", "-i", *config["Env"]]
    program = config["Healthcheck"]["Test"][1:]
    port = running.address.rpartition(":")[2]
    assert subprocess.run([*check, f"FIELDMARK_PORT={port}", *program]).returncode == 0
    assert subprocess.run([*check, "FIELDMARK_PORT=1", *program], capture_output=True).returncode == 1


def test_picks_up_a_model_dropped_into_the_volume(running: Running, volume: Path, wait: Callable[..., None]) -> None:
    """A new version that appears under its final name is served by itself."""
    (model,) = volume.glob("*/2.onnx")
    dropped = model.with_name("3.onnx")
    shutil.copy2(model, model.with_name(".3.onnx.part"))
    model.with_name(".3.onnx.part").rename(dropped)
    try:
        wait(lambda: '"version":"3"' in httpx.get(f"{running.address}/models").text.replace(" ", ""), "version 3")
    finally:
        dropped.unlink()


def test_stops_with_exit_code_0_under_load(running: Running, bird: Path) -> None:
    """SIGTERM to process number 1 finishes what was accepted, refuses the rest properly, and exits 0."""
    photo = bird.read_bytes()
    statuses: list[int] = []
    started = threading.Barrier(5, timeout=60)

    def send() -> None:
        with httpx.Client(base_url=running.address, headers=JPEG, timeout=30) as client:
            client.post("/classify", content=photo)
            started.wait()
            # Until it has stopped; a connection that the kernel had taken by then, and the service not, is cut.
            with suppress(httpx.NetworkError, httpx.RemoteProtocolError):
                statuses.extend(client.post("/classify", content=photo).status_code for _ in range(10_000))

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    code = running.stop()
    for thread in threads:
        thread.join()
    log = running.log.read_text()
    assert code == 0, log[-2000:]
    assert set(statuses) <= {200, 503}
    answered = [
        entry
        for line in log.splitlines()
        if line[:1] == "{" and (entry := json.loads(line)).get("route") == "/classify"
    ]
    assert [entry["status"] for entry in answered].count(200) == len(threads) + statuses.count(200)
