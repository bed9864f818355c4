"""The README's own words against the service: its photo, posted as it says, gets the answer it shows."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def test_client_in_python_runs(served: str, cub_dir: Path, tmp_path: Path) -> None:
    """The README's lines print the class and its marks."""
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (name,) = re.findall(r"here CUB-200-2011's `([^`]+\.jpg)`", README)
    (tmp_path / "bird.jpg").write_bytes((cub_dir / "images" / name).read_bytes())
    command = [sys.executable, "-c", code.replace("http://127.0.0.1:8000", served)]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert re.match(r"Cardinal \['.+'\]\n$", printed)


def _typed() -> list[str]:
    """Return the README's commands in its order, without those that need Docker, a cluster, a GPU or a download."""
    text = re.sub(r"^## Install and test$.*?(?=^## )", "", README.partition("## Deployment")[0], flags=re.M | re.S)
    found, in_words = [], True
    for part in re.split(r"(^## [^\n]*$|^```\w*$.*?^```$)", text, flags=re.M | re.S):
        if part.startswith("## "):
            in_words = part == "## Install and serve"  # further below a command's name in the text is no command
        elif part.startswith("```sh"):
            lines = part.splitlines()[1:-1]
            prompted = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
            found += [re.sub(r"^.*\bpip install '[^']+' && ", "", line) for line in prompted or lines]
        elif in_words and not part.startswith("```"):
            found += re.findall(r"`([^`]*\bfieldmark [^`]*)`", part)
    return found


class _Serving:
    """The `fieldmark serve` that was typed last; another may listen on the usual port."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self.address = ""

    def start(self, command: str, **where: Any) -> None:
        """Type the command, and wait until it listens."""
        self.stop()
        self._process = subprocess.Popen(["bash", "-c", f"exec {command}"], stderr=subprocess.PIPE, text=True, **where)
        assert self._process.stderr is not None
        self.address = next(
            match[0] for line in self._process.stderr if (match := re.search(r"http://[\d.]+:\d+", line))
        )

    def stop(self) -> None:
        """Stop it as Ctrl-C does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.communicate()
            assert 0 == self._process.returncode
            self._process = None


@pytest.mark.slow
def test_commands_can_be_typed(cub_dir: Path, tmp_path: Path) -> None:
    """In order and literally, in one activated environment; only a user's files are put in.

    The weights that `fit` downloads lie where it would have put them.
    """
    (name,) = re.findall(r"here CUB-200-2011's `([^`]+\.jpg)`", README)
    shutil.copy(cub_dir / "images" / name, tmp_path / "bird.jpg")
    shutil.copy(ROOT / "service" / "bundled" / "cub50" / "2.onnx", tmp_path / "FILE.onnx")
    for folder in ("017.Cardinal", "042.Vermilion_Flycatcher"):
        (tmp_path / "PHOTOS" / folder).mkdir(parents=True)
        for photo in sorted((cub_dir / "images" / folder).iterdir())[:8]:
            shutil.copy(photo, tmp_path / "PHOTOS" / folder)
    downloaded = tmp_path / "torch" / "hub" / "checkpoints" / "mobilenet_v2-7ebf99e0.pth"
    downloaded.parent.mkdir(parents=True)
    shutil.copy(cub_dir.parent / "weights" / "mobilenet_v2_imagenet.pth", downloaded)
    settings = {"FIELDMARK_PORT": "0", "FIELDMARK_LOG_FORMAT": "console", "FIELDMARK_CACHE": str(tmp_path / "cache")}
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    (tmp_path / ".venv").symlink_to(sys.prefix)
    where = {
        "cwd": tmp_path,
        "env": {
            **os.environ,
            **settings,
            "PATH": search,
            "TORCH_HOME": str(tmp_path / "torch"),
            "OMP_NUM_THREADS": "1",
        },
    }
    serving, commands = _Serving(), _typed()
    assert ["fieldmark-train recipes", "fit", "evaluate", "export"] == [
        re.sub(r"^fieldmark-train (fit|evaluate|export) .*", r"\1", command.partition("  ")[0])
        for command in commands
        if command.startswith("fieldmark-train")
    ]
    try:
        for command in commands:
            if "fieldmark serve" in command:
                serving.start(command, **where)
                continue
            typed = ["bash", "-c", command.replace("http://127.0.0.1:8000", serving.address)]
            done = subprocess.run(typed, capture_output=True, text=True, **where)
            assert (command, 0, "") == (command, done.returncode, done.stderr if done.returncode else "")
        (served,) = httpx.get(f"{serving.address}/models").json()["models"]
        assert ("mine", "1", ["017.Cardinal", "042.Vermilion Flycatcher"]) == (
            served["name"], served["version"], served["labels"]
        )  # fmt: skip
    finally:
        serving.stop()
    for picture in ("overlay.png", "why-not.png", "marks.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "birds.csv").is_file()


def test_length_is_bounded() -> None:
    """The README has at most 150 lines."""
    assert len(README.splitlines()) <= 150
