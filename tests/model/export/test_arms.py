"""Every backbone and every arm can be exported: the parity check inside the export is the proof."""

from pathlib import Path

import pytest

from model.contract.manifest import synthetic_images
from model.export.export import export, load_network
from model.network.attention import ARMS
from model.network.backbone import STAGES
from tests.model.networks import SIZE, make_manifest, make_network, open_as_users_do

PAIRS = {
    "resnet50": "cbam",
    "vgg16_bn": "spatial",
    "mobilenet_v2": "guided",  # the bundled model's
    "mobilenet_v3_large": "channel",
    "efficientnet_b0": "mixed",
    "convnext_tiny": "se",
}
"""An export takes as long as the network has operations: each backbone once, each arm once."""
ELSEWHERE = {"squeezenet1_1": "the network of `test_export.py`, with `none` too"} | dict.fromkeys(
    ("resnet18", "resnet34", "resnet101"), "resnet50's operations"
)
"""Backbones that other exports cover, or of whose blocks another one is made."""


def test_no_backbone_and_no_arm_is_left_out() -> None:
    """A new one is added to the pairs."""
    assert set(STAGES) == PAIRS.keys() | ELSEWHERE.keys()
    assert set(ARMS) == {*PAIRS.values(), "none"}


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "attention"), PAIRS.items())
def test_every_backbone_and_every_arm_can_be_exported(
    tmp_path: Path, backbone: str, attention: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The file equals torch on every stage, gives the network back, and loads without a warning."""
    network = make_network(backbone, attention, pooling="avg" if attention == "se" else "max")
    report = export(network, make_manifest(), tmp_path / "model.onnx", images=synthetic_images(0, 2, SIZE))
    assert report.passed
    loaded, manifest = load_network(tmp_path / "model.onnx")
    assert loaded.config == network.config
    assert len(manifest.layers) == len(STAGES[backbone])
    assert manifest.has_attention == network.has_attention
    capfd.readouterr()
    open_as_users_do(tmp_path / "model.onnx")
    assert ("", "") == capfd.readouterr()
