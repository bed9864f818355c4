"""Backbones: their stages, and weights from files good and bad."""

from pathlib import Path

import pytest
import torch
import torchvision.models

from model.network.backbone import STAGES, Backbone, WeightsError, create_backbone, read_state_dict


@pytest.mark.parametrize("name", STAGES)
def test_stages_have_the_channels_they_say(name: str) -> None:
    """Every stage's map has the channels and, up to a lost border, the stride of its description."""
    backbone = Backbone(name).eval()
    with torch.no_grad():
        maps = backbone.forward_stages(torch.zeros(1, 3, 96, 96))
    assert [stage.channels for stage in backbone.stages] == [a.shape[1] for a in maps]
    assert all(0 <= 96 // stage.stride - a.shape[2] <= 1 for stage, a in zip(backbone.stages, maps, strict=True))


def test_last_stage_is_the_output_and_follows_from_every_earlier_one() -> None:
    """The stages, the output and the way from a stage to the output agree."""
    backbone = Backbone("mobilenet_v2").eval()
    with torch.no_grad():
        maps = backbone.forward_stages(x := torch.rand(2, 3, 64, 64))
        assert torch.equal(backbone(x), maps[-1])
        for index, stage in enumerate(backbone.stages):
            later = backbone.forward_stages(maps[index], after=stage.name)
            assert all(torch.equal(a, b) for a, b in zip(maps[index + 1 :], later, strict=True))


def test_vgg_map_is_fourteen_wide() -> None:
    """The method's VGG-16 map is 14×14 at 224 px: the last pooling is left out."""
    backbone = Backbone("vgg16_bn").eval()
    with torch.no_grad():
        assert backbone(torch.zeros(1, 3, 224, 224)).shape == (1, 512, 14, 14)


@pytest.mark.parametrize("name", STAGES)
def test_every_backbone_has_imagenet_weights_in_torchvision(name: str) -> None:
    """The name `imagenet` stands for a file that torchvision knows."""
    assert torchvision.models.get_model_weights(name).DEFAULT.url.startswith("https://")


@pytest.mark.parametrize("with_classifier", [True, False])
def test_weights_load_with_or_without_the_classifier(tmp_path: Path, with_classifier: bool) -> None:
    """A whole torchvision state dict and one cut to the features give the same backbone."""
    whole = torchvision.models.resnet18(weights=None).state_dict()
    state = {key: value for key, value in whole.items() if with_classifier or not key.startswith("fc.")}
    torch.save(state, tmp_path / "weights.pth")
    backbone = create_backbone("resnet18", tmp_path / "weights.pth")
    assert torch.equal(whole["layer4.1.conv2.weight"], backbone.state_dict()["layer4.1.conv2.weight"])


@pytest.mark.parametrize("name", ["mobilenet_v2_imagenet", "squeezenet1_1_features_imagenet"])
def test_real_weights_load(data_dir: Path, name: str) -> None:
    """The ImageNet files at hand load, the one that holds the features only too."""
    path = data_dir / "weights" / f"{name}.pth"
    backbone = create_backbone(name.partition("_imagenet")[0].removesuffix("_features"), path)
    stored = read_state_dict(path)
    assert all(torch.equal(tensor, stored[key]) for key, tensor in backbone.state_dict().items() if key in stored)


def test_wrong_weights_name_missing_and_surplus_keys(tmp_path: Path) -> None:
    """The error says which keys are missing, which are surplus and which have another shape."""
    state = Backbone("squeezenet1_1").state_dict()
    del state["features.12.expand3x3.bias"]
    state["features.13.weight"] = torch.zeros(1)
    state["features.0.bias"] = torch.zeros(2)
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(WeightsError) as caught:
        create_backbone("squeezenet1_1", tmp_path / "wrong.pth")
    assert str(caught.value) == (
        "wrong.pth is not a state dict of squeezenet1_1: missing: features.12.expand3x3.bias; "
        "surplus: features.13.weight; of another shape: features.0.bias (2,) instead of (64,)"
    )


def test_many_wrong_keys_are_shortened(tmp_path: Path) -> None:
    """Another network's file is refused in a readable message."""
    torch.save(Backbone("squeezenet1_1").state_dict(), tmp_path / "wrong.pth")
    with pytest.raises(WeightsError, match=r"missing: conv1\.weight.* and \d+ more; surplus: features\.0\.weight"):
        create_backbone("resnet18", tmp_path / "wrong.pth")


@pytest.mark.parametrize("content", [b"not weights", b""])
def test_unreadable_weights_are_refused(tmp_path: Path, content: bytes) -> None:
    """A file that torch cannot read is named."""
    (tmp_path / "broken.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"broken\.pth is not a readable weights file"):
        create_backbone("resnet18", tmp_path / "broken.pth")


def test_a_file_that_would_run_code_is_refused_without_torchs_advice(tmp_path: Path) -> None:
    """Whoever reads the message is not told to switch off the protection."""
    torch.save({"weight": object()}, tmp_path / "pickle.pth")
    with pytest.raises(WeightsError, match=r"pickle\.pth .* it must hold tensors by name alone$") as caught:
        read_state_dict(tmp_path / "pickle.pth")
    assert "weights_only" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_files_of_something_else_and_missing_files_are_refused(tmp_path: Path) -> None:
    """A list of tensors is no state dict; a missing file is said to be missing."""
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="does not hold a state dict"):
        read_state_dict(tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="there is no weights file"):
        create_backbone("resnet18", tmp_path / "missing.pth")


def test_unknown_backbone_lists_the_known_ones() -> None:
    """A typo is answered with the names that exist."""
    with pytest.raises(ValueError, match=r"unknown backbone 'resnet5'.*resnet50"):
        create_backbone("resnet5")
