"""Every backbone and every arm can be exported: the parity check inside the export is the proof."""

from pathlib import Path

import pytest

from model.contract.manifest import synthetic_images
from model.export.export import export, load_network
from model.network.attention import ARMS
from model.network.backbone import STAGES
from tests.model.networks import SIZE, make_manifest, make_network

LONGER = {"resnet34", "resnet101"}
"""Other ResNets with more blocks."""
PAIRS = [(backbone, list(ARMS)[index % len(ARMS)]) for index, backbone in enumerate(STAGES) if backbone not in LONGER]


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "attention"), PAIRS)
def test_every_backbone_and_every_arm_can_be_exported(tmp_path: Path, backbone: str, attention: str) -> None:
    """The file equals torch on every stage and gives the network back."""
    network = make_network(backbone, attention, pooling="avg" if attention == "se" else "max")
    report = export(network, make_manifest(), tmp_path / "model.onnx", images=synthetic_images(0, 2, SIZE))
    assert report.passed
    loaded, manifest = load_network(tmp_path / "model.onnx")
    assert loaded.config == network.config
    assert len(manifest.layers) == len(STAGES[backbone])
    assert manifest.has_attention == network.has_attention
