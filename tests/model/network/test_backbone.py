"""Backbones: their stages, and weights from files good and bad."""

import copy
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn

from model.network.backbone import STAGES, Backbone, StageError, WeightsError, create_backbone, read_state_dict


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


def test_any_step_can_be_continued_from() -> None:
    """Features of a step, passed in its place, give the same last map."""
    backbone = Backbone("mobilenet_v2").eval()
    with torch.no_grad():
        x = torch.rand(2, 3, 64, 64)
        for step in ("features.0", "features.13", "features.18"):
            features = nn.Sequential(*backbone.modules_until(step))(x)
            assert torch.equal(backbone(features, after=step), backbone(x))


def test_frozen_modules_neither_learn_nor_follow_statistics() -> None:
    """Whatever mode the network is set to, the early part stays in evaluation mode; the rest follows."""
    backbone = Backbone("mobilenet_v2").train()
    backbone.freeze("features.3")
    for _ in range(2):
        backbone.train()
        assert not any(part.training for module in backbone.modules_until("features.3") for part in module.modules())
        assert all(part.training for part in backbone.get_submodule("features.4").modules())
        backbone.eval()
        assert not any(part.training for part in backbone.modules())
    learning = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert min(int(name.split(".")[1]) for name in learning) == 4
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.train()(torch.rand(4, 3, 64, 64))
    moved = {name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert min(int(name.split(".")[1]) for name in moved) == 4


def test_a_copy_of_a_frozen_backbone_is_frozen() -> None:
    """Averaged weights and exports work on copies."""
    backbone = Backbone("squeezenet1_1")
    backbone.freeze(backbone.frozen_step(stages=1))
    other = copy.deepcopy(backbone).train()
    assert not other.get_submodule("features.1").training
    assert other.get_submodule("features.2").training


def test_an_early_part_is_named_by_stages_or_by_its_last_step() -> None:
    """Both ways say the same; without either the part is empty; an unknown name is reported with the existing ones."""
    backbone = Backbone("mobilenet_v2")
    assert backbone.frozen_step(stages=4) == backbone.frozen_step(until="features.13") == "features.13"
    assert backbone.frozen_step() is None
    assert backbone.modules_until(None) == []
    with pytest.raises(StageError, match=r"layer3.*features\.18"):
        backbone.frozen_step(until="layer3")
    with pytest.raises(StageError, match="has 5"):
        backbone.frozen_step(stages=6)


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
    """The available ImageNet files load, including the one that holds only the features."""
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
    """The message does not advise to switch off the protection."""
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
    """A typo is reported with the existing names."""
    with pytest.raises(ValueError, match=r"unknown backbone 'resnet5'.*resnet50"):
        create_backbone("resnet5")
