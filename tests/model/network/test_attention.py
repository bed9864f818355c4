"""The attention arms compute what their formulas say."""

import pytest
import torch

from model.network.attention import ARMS, CBAM, ChannelAttention, GuidedAttention, SpatialAttention


@pytest.mark.parametrize("arm", ARMS)
def test_arms_keep_the_grid_and_say_what_they_return(arm: str) -> None:
    """Shapes, ranges and the presence of a map are as announced, and every parameter gets a gradient."""
    module = ARMS[arm](32)
    attended = module(x := torch.rand(3, 32, 4, 5))
    assert attended.feature_map.shape == (3, module.out_channels, 4, 5)
    assert module.has_attention == (attended.attention is not None)
    if attended.attention is not None:
        assert attended.attention.shape == (3, 4, 5)
        assert 0 <= attended.attention.min() <= attended.attention.max() <= 1
    if attended.channel_weights is not None:
        assert torch.allclose(attended.channel_weights.sum(1), torch.ones(3))
    if arm == "none":
        assert attended.feature_map is x
        return
    (attended.feature_map * torch.randn_like(attended.feature_map)).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_guided_attention_follows_the_method() -> None:
    """W is a softmax, S the sigmoid of the weighted sum, X' the map times S; w does not rescale channels."""
    module, x = GuidedAttention(32), torch.rand(2, 32, 3, 4)
    weights = torch.softmax(module.gate.fc2(torch.relu(module.gate.fc1(x.mean((2, 3))))), 1)
    attention = torch.sigmoid(torch.einsum("nc,nchw->nhw", weights, x))
    attended = module(x)
    assert torch.allclose(weights, attended.channel_weights)
    assert torch.allclose(attention, attended.attention)
    assert torch.allclose(x * attention[:, None], attended.feature_map)
    assert attended.attention.min() >= 0.5


def test_channel_attention_keeps_the_scale() -> None:
    """A gate without a preference leaves the map unchanged."""
    module, x = ChannelAttention(32), torch.rand(2, 32, 3, 3)
    torch.nn.init.zeros_(module.gate.fc2.weight)
    torch.nn.init.zeros_(module.gate.fc2.bias)
    assert torch.allclose(x, module(x).feature_map)


def test_spatial_attention_is_a_learnt_sum_of_the_channels() -> None:
    """S is the sigmoid of a sum whose weights are the same for every image."""
    module, x = SpatialAttention(8), torch.rand(2, 8, 3, 3)
    expected = torch.sigmoid(torch.einsum("c,nchw->nhw", module.project.weight[0, :, 0, 0], x) + module.project.bias)
    assert torch.allclose(expected, module(x).attention)


def test_cbam_gates_channels_before_positions() -> None:
    """The spatial gate sees the map that the channel gate has scaled."""
    module, x = CBAM(16), torch.rand(2, 16, 7, 7)
    gate = torch.sigmoid(module.gate(x.mean((2, 3))) + module.gate(x.amax((2, 3))))
    scaled = x * gate[:, :, None, None]
    expected = torch.sigmoid(module.spatial(torch.stack([scaled.mean(1), scaled.amax(1)], 1)))
    assert torch.allclose(scaled * expected, module(x).feature_map)
