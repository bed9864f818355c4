"""`fieldmark-train` itself: what a command loads before it answers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = """
import sys
from training.cli import main

ONNX = {"onnx", "onnxruntime", "onnxscript", "onnx_ir"}
if sys.argv.pop(1) == "absent":
    sys.modules.update(dict.fromkeys(ONNX))
status = main(sys.argv[1:])
print(sorted(name for name, module in sys.modules.items() if name.partition(".")[0] in ONNX and module is not None))
sys.exit(status)
"""


@pytest.mark.parametrize("onnx", ["installed", "absent"])
def test_fit_neither_loads_nor_needs_onnx(tiny_options: list[str], tmp_path: Path, onnx: str) -> None:
    """A whole run in an interpreter of its own, with cached features too: neither ONNX nor its runtime is loaded."""
    options = ["fit", *tiny_options, "--epochs=1", "--set=optim.freeze_stages=1", "--set=data.cached_views=1"]
    command = [sys.executable, "-c", COMMAND, onnx, *options, "--out", str(tmp_path / "run"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    *result, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert json.loads("\n".join(result))["finished"]


def test_help_loads_no_torch() -> None:
    """The first answer comes at once."""
    program = "import sys, training.cli; print(sorted({'torch', 'onnx', 'onnxruntime', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
