"""A small real network and its exported file, made once."""

import pytest
import torch

from model.contract.manifest import synthetic_images
from model.export.export import export
from model.export.running import session
from tests.model.networks import SIZE, Exported, make_manifest, make_network


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Leave the other cores to the other tests, and make sums come out the same everywhere."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return SqueezeNet with guided attention, five classes, 64 px, exported with every default."""
    network, path = make_network(), tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    images = synthetic_images(3, 7, SIZE)
    report = export(network, make_manifest(), path, images=images)
    return Exported(network, path, report, session(path.read_bytes()), images)
