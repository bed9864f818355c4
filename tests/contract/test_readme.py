"""The README's own words against the service: its photo, posted as it says, gets the answer it shows."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """Yield the address of a real `fieldmark serve` with the bundled model."""
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--log-format", "console"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = next(filter(None, (re.search(r"http://[\d.]+:\d+", line) for line in process.stderr)), None)
        assert address is not None
        yield address[0]
        process.terminate()
        process.communicate()
        assert process.returncode == 0


def test_answer_is_the_one_shown(served: str, cub_dir: Path) -> None:
    """The class, its probability and the image's size are those of the README's example."""
    (name,) = re.findall(r"here CUB-200-2011's `([^`]+\.jpg)`", README)
    (line,) = re.findall(r"^(\{\"predictions\".*\})$", README, re.MULTILINE)
    shown = json.loads(line)
    photo = cub_dir / "images" / name
    given = httpx.post(f"{served}/classify?top_k=2", files={"file": ("bird.jpg", photo.read_bytes())}).json()
    assert given.keys() == shown.keys()
    for one, other in zip(given["predictions"], shown["predictions"], strict=True):
        assert (one["label"], one["index"]) == (other["label"], other["index"])
        assert one["probability"] == pytest.approx(other["probability"], abs=0.01)  # other processors round otherwise
    for key in ("model", "filename", "width", "height"):
        assert given[key] == shown[key]


@pytest.mark.parametrize("query", re.findall(r"8000/(explain[^']*)'", README))
def test_pictures_are_returned(served: str, cub_dir: Path, query: str) -> None:
    """Every address of a picture in the README returns one."""
    (name,) = re.findall(r"here CUB-200-2011's `([^`]+\.jpg)`", README)
    answer = httpx.post(f"{served}/{query}", files={"file": (cub_dir / "images" / name).read_bytes()})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")


def test_client_in_python_runs(served: str, cub_dir: Path, tmp_path: Path) -> None:
    """The README's lines print the class and its marks."""
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (name,) = re.findall(r"here CUB-200-2011's `([^`]+\.jpg)`", README)
    (tmp_path / "bird.jpg").write_bytes((cub_dir / "images" / name).read_bytes())
    command = [sys.executable, "-c", code.replace("http://127.0.0.1:8000", served)]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert re.match(r"Cardinal \['.+'\]\n$", printed)


def _typed() -> list[str]:
    """Return the commands of the README's text that need neither a server nor training, without those of its blocks."""
    text = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL).partition("## Install and test")[0]
    return [command for command in re.findall(r"`([^`]*\bfieldmark [^`]*)`", text) if "serve" not in command]


@pytest.mark.slow
def test_commands_can_be_typed(cub_dir: Path, tmp_path: Path) -> None:
    """In order and literally, in one activated environment; only names of a user's own files are put in."""
    (name,) = re.findall(r"here CUB-200-2011's `([^`]+\.jpg)`", README)
    (tmp_path / "PHOTOS").mkdir()
    for photo in (tmp_path / "bird.jpg", tmp_path / "PHOTOS" / "bird.jpg"):
        photo.write_bytes((cub_dir / "images" / name).read_bytes())
    shutil.copy(ROOT / "service" / "bundled" / "cub50" / "2.onnx", tmp_path / "FILE.onnx")
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": search, "FIELDMARK_PORT": "0"}  # another may listen on the usual port
    commands = _typed()
    assert len(commands) >= 7
    for command in commands:
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (command, 0, "") == (command, done.returncode, done.stderr if done.returncode else "")
    assert {"overlay.png", "birds.csv"} <= {path.name for path in tmp_path.iterdir()}


def test_length_is_bounded() -> None:
    """The README has at most 150 lines."""
    assert len(README.splitlines()) <= 150
