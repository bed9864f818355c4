"""What the serving process imports, looked at in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service.running import tiny_settings

MOST_OF_CLASSIFY = 560
"""Most modules of `fieldmark classify`; 500 with Python 3.11, most of them numpy's, pydantic's and Python's own."""
HEAVY = {"torch", "torchvision", "onnx", "onnxscript", "scipy", "matplotlib", "training", "pandas", "cv2", "ray"}


def imported_by(statement: str) -> set[str]:
    """Return the top-level modules of a fresh process after a statement."""
    script = f"{statement}\nimport sys\nprint(' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    return set(output.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import service.http.app, service.http.server, service.http.protocol, service.cli; "
        "import service.commands.bench.command",
        "from service.inference.engine import OnnxEngine; from service.settings import *; "
        "OnnxEngine(next(BUNDLED_MODEL.glob('*/?.onnx')), Settings(device='cpu'))",
    ],
)
def test_the_service_never_imports_torch(statement: str) -> None:
    """Neither importing the service nor loading the bundled model pulls in torch or anything of training."""
    assert set() == imported_by(statement) & HEAVY


@pytest.mark.parametrize(
    "module", ["model.contract.manifest", "model.contract.graph", "model.photo.decode", "model.files"]
)
def test_what_the_service_stands_on_is_free_of_torch(module: str) -> None:
    """The rooms of `model` that the service uses stay light."""
    assert set() == imported_by(f"import {module}") & (HEAVY | {"onnxruntime", "fastapi"})


def test_settings_and_errors_are_free_of_the_runtime() -> None:
    """`fieldmark --help` must not pay for ONNX Runtime or the web."""
    assert set() == imported_by("import service.settings, service.errors") & (HEAVY | {"onnxruntime", "fastapi"})


def test_only_bench_carries_the_measuring_modules() -> None:
    """Another command's process never imports them."""
    for command, carried in (("serve", False), ("bench", True)):
        script = (
            "import contextlib, sys; from service.cli import main\n"
            f"with contextlib.suppress(SystemExit): main([{command!r}, '--help'])\n"
            "print(any(name.startswith('service.commands.bench') for name in sys.modules))"
        )
        output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
        assert str(carried) == output.splitlines()[-1]


def test_classify_imports_no_more_than_it_needs(tmp_path: Path, red_png: bytes) -> None:
    """A photo is classified without the web, the client of Prometheus and the modules that draw a server's pages."""
    (tmp_path / "red.png").write_bytes(red_png)
    model = tiny_settings(tmp_path).model
    arguments = ["classify", str(tmp_path / "red.png"), "--model", str(model), "--device", "cpu"]
    script = f"from service.cli import main; assert main({arguments!r}) == 0\nimport sys; print(*sys.modules)"
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment)
    imported = done.stdout.splitlines()[-1].split()
    web = {"fastapi", "starlette", "uvicorn", "httptools", "multipart", "prometheus_client", "opentelemetry"}
    assert set() == {name.partition(".")[0] for name in imported} & (web | HEAVY | {"http", "html"})
    assert len(imported) <= MOST_OF_CLASSIFY


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_runtime_tells_nobody(tmp_path: Path) -> None:
    """ONNX Runtime starts no uploader, writes no identifier of the machine, and does not complain that it cannot."""
    script = (
        "import os; from service.inference.engine import OnnxEngine; from service.settings import *; "
        "OnnxEngine(next(BUNDLED_MODEL.glob('*/?.onnx')), Settings(device='cpu', cpu_runs=1)); "
        "print(len(os.listdir('/proc/self/task')))"
    )
    switches = {"CI", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS"}  # it is quiet under these
    environment = {name: value for name, value in os.environ.items() if name not in switches}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "OPENBLAS_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment)
    assert ("1", "") == (run.stdout.strip(), run.stderr)
    assert [] == list(tmp_path.iterdir())
