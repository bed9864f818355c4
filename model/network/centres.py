"""Where the cells of a feature map look, in pixels of the input.

A 3×3 convolution of stride 2 with padding 1 looks at every second pixel from the first one on, so cell i of a map of
stride s looks at pixel s·i, not at the middle of the i-th square of s pixels. Other paddings, and patch embeddings,
have other centres. What an operation does to them is exact arithmetic, so the operations of one pass are followed.

Source: Araujo et al. 2019, "Computing receptive fields of convolutional neural networks", doi:10.23915/distill.00021.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


class Centres(NamedTuple):
    """Where the cells of a map look. The first pixel's middle is 0, the next one's 1.

    Attributes:
        x: middle of what the first cell of a row looks at, pixels of the input.
        y: of the first cell of a column.
        step_x: to the next cell of a row.
        step_y: to the next cell of a column.
    """

    x: float
    y: float
    step_x: float
    step_y: float


class Axis(NamedTuple):
    """An axis of a tensor that is one of the image's: its first cell looks at `start`, the next a `step` further."""

    start: float
    step: float


Axes = tuple[Axis | None, ...]


def cell_centres(maps_of: Callable[[Tensor], Sequence[Tensor]], size: int) -> tuple[Centres | None, ...]:
    """Return where the cells of each feature map look; None where a map has lost its places on the way.

    Convolutions, pooling and padding move the places; what keeps an axis' length keeps its places. An even window's
    middle lies between two pixels. Only shapes are computed.

    Args:
        maps_of: returns feature maps, (N, C, h, w), of normalised images, (N, 3, S, S).
        size: S, pixels.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), _Follower() as follower:
        image = torch.zeros(1, 3, size, size)
        follower.place(image, (None, None, Axis(0.0, 1.0), Axis(0.0, 1.0)))
        return tuple(_centres(follower.axes_of(a)) for a in maps_of(image))


def _centres(axes: Axes) -> Centres | None:
    if len(axes) != 4 or axes[2] is None or axes[3] is None:
        return None
    y, x = axes[2], axes[3]
    return Centres(x.start, y.start, x.step, y.step)


class _Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps, for every tensor of a pass, which of its axes are the image's and where their cells look."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._axes: dict[int, Axes] = {}
        self._alive: list[Tensor] = []

    def place(self, tensor: Tensor, axes: Axes) -> None:
        """Remember a tensor's axes; it is kept, for the next tensor might get its id."""
        self._axes[id(tensor)] = axes
        self._alive.append(tensor)

    def axes_of(self, tensor: Tensor) -> Axes:
        """Return what is known of a tensor's axes; nothing of a constant's."""
        return self._axes.get(id(tensor), (None,) * tensor.dim())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [value for value in tree_leaves((args, kwargs or {})) if isinstance(value, Tensor)]
        for made in tree_leaves(result):
            if isinstance(made, Tensor):
                self.place(made, self._moved(func.overloadpacket, args, made) or self._kept(given, made))
        return result

    def _moved(self, operation: Any, args: Any, made: Tensor) -> Axes | None:
        """Return the axes behind an operation that moves places; None for the others."""
        axes = self.axes_of(args[0]) if args and isinstance(args[0], Tensor) else ()
        if operation in (aten.permute, aten.transpose, aten.t):
            return _permuted(operation, axes, args)
        if operation is aten.constant_pad_nd:
            before = dict(enumerate(reversed(args[1][::2]), len(axes) - len(args[1]) // 2))
            return tuple(
                axis and Axis(axis.start - before.get(index, 0) * axis.step, axis.step)
                for index, axis in enumerate(axes)
            )
        if operation in (aten.view, aten._unsafe_view):
            return axes if made.shape == args[0].shape else (None,) * made.dim()
        window = _window(operation, args)
        if window is None:
            return None
        slid = (axis and _slid(axis, *each) for axis, each in zip(axes[-2:], window, strict=True))
        return (*(None,) * (len(axes) - 2), *slid)

    def _kept(self, given: Sequence[Tensor], made: Tensor) -> Axes:
        """Return the axes of a result whose operation keeps places: those of an argument of the same length there."""
        found: list[Axis | None] = []
        for back in range(-made.dim(), 0):
            same = (
                self.axes_of(value)[back]
                for value in given
                if value.dim() >= -back and value.shape[back] == made.shape[back]
            )
            found.append(next(chain(filter(None, same), [None])))
        return tuple(found)


def _permuted(operation: Any, axes: Axes, args: Any) -> Axes:
    order = list(range(len(axes)))
    if operation is aten.permute:
        order = [index % len(axes) for index in args[1]]
    else:
        first, second = args[1:3] if operation is aten.transpose else (0, 1)
        order[first], order[second] = order[second], order[first]
    return tuple(axes[index] for index in order)


def _slid(axis: Axis, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    """Return the axis of the windows that slide along an axis."""
    return Axis(axis.start + (dilation * (kernel - 1) / 2 - padding) * axis.step, stride * axis.step)


def _window(operation: Any, args: Any) -> list[tuple[int, int, int, int]] | None:
    """Return kernel, stride, padding and dilation of an operation's window along y and x; None where it has none."""
    given = [*args, *(None,) * 9]
    if operation is aten.convolution and not given[6]:
        sizes = (list(args[1].shape[2:]), args[3], args[4], args[5])
    elif operation in (aten.max_pool2d_with_indices, aten.avg_pool2d):
        dilation = given[4] if operation is aten.max_pool2d_with_indices else None
        sizes = (args[1], given[2] or args[1], given[3] or [0], dilation or [1])
    else:
        return None
    return list(zip(*(_pair(each) for each in sizes), strict=True))


def _pair(sizes: int | Sequence[int]) -> Sequence[int]:
    values = [sizes] if isinstance(sizes, int) else list(sizes)
    return values * (2 // len(values))
