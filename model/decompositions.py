"""Gradients by the input alone, in operations that ONNX has, for those that torch decomposes badly or not at all.

The parameters are frozen, so the other gradients that torch's own formulas return are never asked for.
"""

from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def _convolution_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: object,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    output_mask: list[bool],
) -> Any:
    """Write a convolution's input gradient as the transposed convolution that it is."""
    if transposed or output_mask[1] or output_mask[2]:
        return NotImplemented
    spatial = range(len(stride))
    # What the forward pass dropped at the far border comes back as output padding.
    extra = [
        int(
            x.shape[2 + d]
            - ((gradient.shape[2 + d] - 1) * stride[d] - 2 * padding[d] + dilation[d] * (weight.shape[2 + d] - 1) + 1)
        )
        for d in spatial
    ]
    result = torch.ops.aten.convolution(gradient, weight, None, stride, padding, dilation, True, extra, groups)
    return result, None, None


def _batch_norm_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    save_mean: Tensor | None,
    save_invstd: Tensor | None,
    train: bool,
    eps: float,
    output_mask: list[bool],
) -> Any:
    """With running statistics, batch normalisation is one factor a channel, which a runtime folds to a constant."""
    if train or running_var is None or output_mask[1] or output_mask[2]:
        return NotImplemented
    factor = torch.rsqrt(running_var + eps)
    factor = factor if weight is None else factor * weight
    return gradient * factor.view(1, -1, *[1] * (x.dim() - 2)), None, None


INPUT_GRADIENTS = {
    aten.convolution_backward.default: _convolution_backward,
    aten.native_batch_norm_backward.default: _batch_norm_backward,
}
