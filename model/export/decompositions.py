"""Operations and their input gradients in terms that ONNX has, where torch decomposes badly or not at all.

The parameters are frozen, so the other gradients of torch's own formulas are never needed.
"""

from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions

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
    windows = [step * (size - 1) + 1 for step, size in zip(dilation, weight.shape[2:], strict=True)]
    # What the forward pass dropped at the far border comes back as output padding.
    extra = _dropped(x, gradient, windows, stride, padding)
    result = aten.convolution(gradient, weight, None, stride, padding, dilation, True, extra, groups)
    return result, None, None


def _dropped(x: Tensor, gradient: Tensor, windows: list[int], stride: list[int], padding: list[int]) -> list[int]:
    """Return how many cells at the far border no window covers, along each axis; negative where one hangs over."""
    axes = zip(x.shape[2:], gradient.shape[2:], windows, stride, padding, strict=True)
    return [int(size - ((count - 1) * step - 2 * pad + window)) for size, count, window, step, pad in axes]


def _avg_pool2d_backward(
    gradient: Tensor,
    x: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Spread each mean's gradient over its window: a transposed convolution of every channel with ones."""
    kernel, stride, padding = (
        list(sizes) * (2 // len(sizes)) for sizes in (kernel_size, stride or kernel_size, padding)
    )
    sizes, means = [int(size) for size in x.shape[2:]], [int(size) for size in gradient.shape[2:]]
    axes = zip(sizes, means, kernel, stride, padding, strict=True)
    counts = [_window_sizes(*axis, count_include_pad, gradient.dtype) for axis in axes]
    divisor = counts[0][:, None] * counts[1] if divisor_override is None else divisor_override
    missing, channels = _dropped(x, gradient, kernel, stride, padding), int(x.shape[1])
    extra = [max(0, cells) for cells in missing]
    ones = torch.ones((channels, 1, *kernel), dtype=gradient.dtype)
    spread: Tensor = aten.convolution(gradient / divisor, ones, None, stride, padding, [1, 1], True, extra, channels)
    # With `ceil_mode` the last window may hang over the border.
    return spread[:, :, : sizes[0], : sizes[1]] if min(missing) < 0 else spread


def _window_sizes(
    size: int, means: int, window: int, step: int, pad: int, with_padding: bool, dtype: torch.dtype
) -> Tensor:
    """Return by how many cells each window's sum was divided, along one axis."""
    first, last = (-pad, size + pad) if with_padding else (0, size)
    starts = torch.arange(means, dtype=dtype) * step - pad
    return (starts + window).clamp(max=last) - starts.clamp(min=first)


def _constant_pad_nd(x: Tensor, pad: list[int], value: float = 0.0) -> Tensor:
    """Set constants beside a tensor, or crop it where a side is negative, as the gradient of padding does.

    torch's own padding would freeze the number of images in the recording.
    """
    for number, sides in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        axis = x.ndim - 1 - number
        first, last = (max(0, -side) for side in sides)
        x = aten.slice(x, axis, first, x.shape[axis] - last) if first or last else x
        shapes = [(*x.shape[:axis], side, *x.shape[axis + 1 :]) for side in sides]
        before, after = ([x.new_full(shape, value)] if shape[axis] > 0 else [] for shape in shapes)
        x = torch.cat([*before, x, *after], axis) if before or after else x
    return x


DECOMPOSITIONS = {
    # Core operations that ONNX lacks: found by the exporter, they would cost a second recording.
    **get_decompositions([aten.max_pool2d_with_indices_backward, aten.squeeze.dims]),
    aten.avg_pool2d_backward.default: _avg_pool2d_backward,
    aten.constant_pad_nd.default: _constant_pad_nd,
    aten.convolution_backward.default: _convolution_backward,
}
