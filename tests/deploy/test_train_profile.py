"""The train profile's very command: it trains, drops the model into the volume, and the running service takes it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import yaml

TINY = "--recipe quick-cpu --epochs 1 --workers 0 --quiet --set data.input_size=64 --set data.resize_size=72"


@pytest.fixture
def photos(cub_dir: Path, tmp_path: Path) -> Path:
    """Return a folder of class folders: three kinds of birds, eight photos each."""
    folder = tmp_path / "data"
    for kind in sorted((cub_dir / "images").iterdir())[:3]:
        (folder / kind.name).mkdir(parents=True)
        for photo in sorted(kind.iterdir())[:8]:
            shutil.copy(photo, folder / kind.name)
    return folder


@pytest.mark.slow
def test_trained_model_is_served_by_itself(
    root: Path, data_dir: Path, photos: Path, tmp_path: Path, serve: Callable[..., str], wait: Callable[..., None]
) -> None:
    """Version 3 comes out of the profile's shell line and answers in place of version 2, without a restart."""
    models = tmp_path / "models"
    shutil.copytree(root / "service/bundled", models)
    address = serve(FIELDMARK_MODEL=str(models), FIELDMARK_POLL_INTERVAL_S="0.5")
    train = yaml.safe_load((root / "docker-compose.yml").read_text())["services"]["train"]
    (script,) = train["command"]
    # The container's folders are ours here.
    for folder, ours in {"/data": photos, "/runs": tmp_path / "runs", "/models": models}.items():
        script = script.replace(f" {folder}", f" {ours}").replace(f'"{folder}', f'"{ours}')
    weights = data_dir / "weights/mobilenet_v2_imagenet.pth"
    variables = {"MODEL_NAME": "cub50", "MODEL_VERSION": "3", "TRAIN_OPTIONS": f"{TINY} --weights {weights}"}
    search = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    cache = {"FIELDMARK_CACHE": str(tmp_path / "cache")}
    command = [*train["entrypoint"], script.replace("$$", "$")]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables | search | cache)
    assert run.returncode == 0, run.stdout + run.stderr
    assert sorted(file.name for file in (models / "cub50").glob("?.onnx")) == ["2.onnx", "3.onnx"]

    def answers() -> tuple[str, int]:
        photo = next(photos.rglob("*.jpg")).read_bytes()
        answer = httpx.post(f"{address}/classify", content=photo, headers={"Content-Type": "image/jpeg"}, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()["model"]["version"], len(answer.json()["predictions"])

    wait(lambda: answers()[0] == "3", "the new version answers")
    assert answers() == ("3", 3)
