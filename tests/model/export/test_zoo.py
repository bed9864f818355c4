"""Torchvision's classifiers from a file."""

from pathlib import Path

import pytest
import torch
import torchvision.models

from model.contract.geometry import Resize
from model.contract.manifest import Manifest
from model.export.export import read
from model.export.zoo import export_torchvision, load_classifier
from model.network.backbone import WeightsError


@pytest.mark.slow
def test_a_torchvision_classifier_becomes_one_file(tmp_path: Path) -> None:
    """Weights, labels and a layer are enough."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None, num_classes=3)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    report = export_torchvision(
        "resnet18",
        tmp_path / "weights.pth",
        ("layer4", "layer3"),
        ("cat", "dog", "fish"),
        tmp_path / "model.onnx",
        resize=Resize(size=64, crop=64),
    )
    assert report.passed
    model = read(tmp_path / "model.onnx")
    manifest = Manifest.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    assert [(layer.name, layer.channels) for layer in manifest.layers] == [("layer4", 512), ("layer3", 256)]


def test_wrong_names_and_files_are_refused(tmp_path: Path) -> None:
    """A network that torchvision does not have, and a state dict of another number of classes."""
    with pytest.raises(WeightsError, match="no classifier 'resnet5'"):
        load_classifier("resnet5", tmp_path / "x.pth", 3)
    state = torchvision.models.squeezenet1_1(weights=None, num_classes=4).state_dict()
    torch.save(state, tmp_path / "four.pth")
    with pytest.raises(WeightsError, match=r"four\.pth does not fit squeezenet1_1 with 3 classes"):
        load_classifier("squeezenet1_1", tmp_path / "four.pth", 3)
