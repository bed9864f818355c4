"""Torchvision's classifiers from a file."""

import argparse
import re
import warnings
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn

from model.contract.geometry import Resize
from model.contract.graph import codes_of_best
from model.contract.manifest import Manifest, synthetic_images
from model.export.export import read
from model.export.running import run, session
from model.export.zoo import IMAGENET_MEAN, IMAGENET_STD, export_torchvision, load_classifier
from model.network.backbone import WeightsError, read_state_dict


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


def _as_published(name: str, aux_logits: bool = False) -> nn.Module:
    """Return a network as `weights=...` leaves it: the input is transformed, and further heads may be gone."""
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network: nn.Module = torchvision.models.get_model(
            name, weights=None, num_classes=3, transform_input=True, aux_logits=aux_logits
        )
    network.eval()
    for module in network.modules():  # its statistics are those of images, or its answers are all alike
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.train()
    with torch.no_grad():
        network(torch.rand(8, 3, 96, 96))
    return network.eval()


@pytest.mark.parametrize("aux_logits", [False, True])
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_that_transform_their_input(tmp_path: Path, name: str, aux_logits: bool) -> None:
    """The refusal names the missing option; with it the network equals the user's, with or without aux heads."""
    theirs, file = _as_published(name, aux_logits), tmp_path / "weights.pth"
    torch.save(theirs.state_dict(), file)
    with pytest.raises(WeightsError, match="--build transform_input=true"):
        load_classifier(name, file, 3)
    x = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        expected = theirs(x)
        assert torch.equal(expected, load_classifier(name, file, 3, {"transform_input": True})(x))
        assert not torch.allclose(expected, load_classifier(name, file, 3, {"transform_input": False})(x), rtol=1e-3)


@pytest.mark.slow
def test_the_exported_file_answers_as_the_users_network(tmp_path: Path) -> None:
    """The reference is their module as it is, not one that was built again here."""
    theirs, file, size = _as_published("googlenet"), tmp_path / "weights.pth", 64
    torch.save(theirs.state_dict(), file)
    images = synthetic_images(5, 4, size)
    out = tmp_path / "model.onnx"
    export_torchvision(
        "googlenet",
        file,
        "inception5b",
        ("cat", "dog", "fish"),
        out,
        resize=Resize(size=size, crop=size),
        images=images,
        weights_dtype="fp32",
        build={"transform_input": True},
    )
    mean, std = torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None]
    with torch.no_grad():
        expected = theirs((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std)
    found = torch.from_numpy(run(session(out.read_bytes()), images, *codes_of_best(len(images), 3))["logits"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_old_names_of_densenet_are_read(tmp_path: Path) -> None:
    """`norm.1` of older files is `norm1`; they count no batches either."""
    torch.manual_seed(0)
    theirs = torchvision.models.densenet121(weights=None, num_classes=3).eval()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): tensor
        for key, tensor in theirs.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert any(".norm.1." in key for key in old)
    torch.save(old, tmp_path / "old.pth")
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(theirs(x), load_classifier("densenet121", tmp_path / "old.pth", 3)(x))


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "lightning.net."]
)
@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_state_dict", "the weights"])
def test_wrapped_weights_are_read(tmp_path: Path, prefix: str, key: str | None) -> None:
    """Names under a wrapper's, in a checkpoint beside other things."""
    theirs = torchvision.models.squeezenet1_1(weights=None, num_classes=3).state_dict()
    wrapped = {prefix + name: tensor for name, tensor in theirs.items()}
    options = argparse.Namespace(lr=0.1)
    torch.save(wrapped if key is None else {"epoch": 3, "args": options, "optimizer": {}, key: wrapped}, tmp_path / "w")
    loaded = load_classifier("squeezenet1_1", tmp_path / "w", 3).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in theirs.items())


def test_checkpoints_that_leave_a_doubt_are_refused(tmp_path: Path) -> None:
    """One line each: two state dicts without a usual name, none at all, an argument that there is not."""
    one = {"a": torch.zeros(1)}
    for content, message in (
        ({"teacher": one, "student": one}, "holds several state dicts: teacher, student"),
        ({"epoch": 3}, "does not hold a state dict"),
        ({}, "does not hold a state dict"),
        ([1], "does not hold a state dict"),
    ):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=message) as refused:
            read_state_dict(tmp_path / "w.pth")
        assert "\n" not in str(refused.value)
    torch.save(one, tmp_path / "w.pth")
    for build, message in (({"nonsense": 1}, "cannot be built with nonsense=1"), ({}, "does not fit resnet18")):
        with pytest.raises(WeightsError, match=message) as refused:
            load_classifier("resnet18", tmp_path / "w.pth", 3, build)
        assert "\n" not in str(refused.value)
