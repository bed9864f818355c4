"""`fieldmark-train export` without some packages, in its own interpreter."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from model.contract.manifest import Manifest
from model.export.export import read
from training.fit.job import Job
from training.fit.loop import fit

ABSENT = ("torchcam", "pytorch_grad_cam")
COMMAND = f"""
import sys

class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent)
from training.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_missing_peers_are_reported_with_their_pip_command(make_job: Callable[..., Job]) -> None:
    """Without other implementations the file is still written, and a note names their packages."""
    job = make_job(keep_outputs=True)
    fit(job)
    out = job.out / "1.onnx"
    command = [sys.executable, "-c", COMMAND, "export", job.out, "--out", out, "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads(run.stdout)
    assert out.stat().st_size == figures["bytes"]
    assert ["peer.captum"] == [name for name in figures if name.startswith("peer.")]
    note = "note: not compared with torchcam, pytorch-grad-cam: not installed; pip install torchcam grad-cam"
    assert note in run.stderr.splitlines()
    embedding = Manifest.from_metadata({entry.key: entry.value for entry in read(out).metadata_props}).embedding
    assert embedding is not None
    assert (17, 18) == (embedding.size, embedding.num_photos)
