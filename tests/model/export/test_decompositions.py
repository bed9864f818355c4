"""Gradients written in other operations: they must be torch's own."""

import itertools

import pytest
import torch

from model.export.decompositions import DECOMPOSITIONS

POOLINGS = [*itertools.product([(2, 2), (3, 2)], [(), (2, 2), (3, 1)], [(0, 0), (1, 1)], [False, True], [False, True])]


@pytest.mark.parametrize(("kernel", "stride", "padding", "ceil_mode", "with_padding"), POOLINGS)
def test_gradient_of_average_pooling_is_torchs(
    kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], ceil_mode: bool, with_padding: bool
) -> None:
    """Windows that overlap, leave a border out, hang over it, or count the padding."""
    torch.manual_seed(0)
    x = torch.rand(2, 3, 8, 11, dtype=torch.float64)
    for divisor in (None, 5):
        arguments = (list(kernel), list(stride), list(padding), ceil_mode, with_padding, divisor)
        gradient = torch.rand_like(torch.ops.aten.avg_pool2d(x, *arguments))
        expected = torch.ops.aten.avg_pool2d_backward(gradient, x, *arguments)
        found = DECOMPOSITIONS[torch.ops.aten.avg_pool2d_backward.default](gradient, x, *arguments)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("pad", [[0, 1], [1, 0, 2, 3], [0, 0, 0, 0, 1, 2], [-1, 2, 0, -3]])
def test_padding_is_torchs(pad: list[int]) -> None:
    """On any sides of any axes, with any constant."""
    x = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    for value in (0.0, -1.5):
        found = DECOMPOSITIONS[torch.ops.aten.constant_pad_nd.default](x, pad, value)
        torch.testing.assert_close(found, torch.nn.functional.pad(x, pad, value=value))
