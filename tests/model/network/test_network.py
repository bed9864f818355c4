"""The network: its config, its parts, and how they fit."""

import pytest
import torch

from model.network.network import NetworkConfig, build_network


@pytest.mark.parametrize("pooling", ["max", "avg"])
@pytest.mark.parametrize("head", ["mlp", "linear"])
@pytest.mark.parametrize("attention", ["guided", "mixed"])
def test_parts_make_the_whole(pooling: str, head: str, attention: str) -> None:
    """Features, pooling and classification in steps give what the whole network gives."""
    config = NetworkConfig("squeezenet1_1", attention, num_classes=4, pooling=pooling, head=head, hidden=16)  # type: ignore[arg-type]
    network = build_network(config).eval()
    x = torch.rand(2, 3, 64, 64)
    attended = network.forward_features(x)
    pooled = network.pool(attended.feature_map)
    assert pooled.shape == (2, network.in_channels)
    assert network.in_channels == (1024 if attention == "mixed" else 512)
    assert torch.equal(network(x), network.classify(pooled))


def test_head_is_the_methods() -> None:
    """BatchNorm, Linear to 512, BatchNorm, ELU, Linear to the classes; the dropout is off by default."""
    network = build_network(NetworkConfig("squeezenet1_1", "guided", num_classes=4))
    names = [type(part).__name__ for part in network.head]
    assert names == ["BatchNorm1d", "Linear", "BatchNorm1d", "ELU", "Dropout", "Linear"]
    assert network.head[1].out_features == 512
    assert network.head[4].p == 0.0


def test_config_survives_a_round_trip() -> None:
    """What a checkpoint or a manifest holds builds the same config."""
    config = NetworkConfig("resnet50", "cbam", num_classes=200, pooling="avg", head="linear", dropout=0.2)
    assert NetworkConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backbone", "resnet5"),
        ("attention", "guide"),
        ("pooling", "median"),
        ("head", "tree"),
        ("num_classes", 1),
        ("dropout", 1.0),
        ("hidden", 0),
    ],
)
def test_config_refuses_what_is_not_offered(field: str, value: object) -> None:
    """A wrong value is an error when the config is made, not when the network is built."""
    good = NetworkConfig("resnet50", "guided", num_classes=10).to_dict()
    with pytest.raises(ValueError):
        NetworkConfig.from_dict(good | {field: value})


def test_unknown_arm_lists_the_known_ones() -> None:
    """A typo is reported with the existing names."""
    with pytest.raises(ValueError, match=r"attention 'guide'.*guided"):
        NetworkConfig("resnet50", "guide", num_classes=10)


def test_config_refuses_unknown_keys() -> None:
    """A key of a newer version is an error, not silently dropped."""
    with pytest.raises(ValueError, match="not a network's config"):
        NetworkConfig.from_dict(NetworkConfig("resnet50", "guided", num_classes=10).to_dict() | {"depth": 3})
