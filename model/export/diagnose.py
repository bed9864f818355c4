"""Which module is the cause when a network cannot be traced or written as ONNX."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def module_stack(root: nn.Module) -> Iterator[list[str]]:
    """Yield the paths of the running modules, outermost first; an exception leaves them as they were."""
    running: list[str] = []
    hooks = []
    for name, module in root.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
        hooks.append(module.register_forward_hook(lambda *_: (running.pop(), None)[1]))
    try:
        yield running
    finally:
        for hook in hooks:
            hook.remove()


def find_operator(root: nn.Module, inputs: tuple[Tensor, ...], operator: str) -> tuple[str, str]:
    """Return the aten name of an operator as a module runs it, and that module's path; empty where none does.

    Args:
        root: the network.
        inputs: small ones, to run it with.
        operator: as the exporter names it; for a gradient (`…_backward`) the forward operator is searched.
    """
    wanted = re.sub(r"_backward$", "", operator)
    with module_stack(root) as running, _Witness(running) as witness:
        root(*inputs)
    # Torch may have split the operator before the exporter saw it: aten.special_bessel_j0 arrives as prims.bessel_j0.
    return next(
        (seen for seen in witness.seen.items() if seen[0].startswith(wanted) or seen[0].endswith(wanted)), ("", "")
    )


def operator_of(error: BaseException) -> str:
    """Return the name of the operator that an exporter's error is about, or an empty string."""
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen)
        match = re.search(r"target=torch\.ops\.(?:aten|prims)\.(\w+)", text) or re.search(r"aten[.:]+(\w+)", text)
        if match:
            return match.group(1)
        seen = seen.__cause__ or seen.__context__
    return ""


class _Witness(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records in which module each operator first ran."""

    def __init__(self, running: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.running = running
        self.seen: dict[str, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.running:
            self.seen.setdefault(func._schema.name.split("::")[-1], self.running[-1])
        return func(*args, **(kwargs or {}))


def describe_failure(root: nn.Module, inputs: tuple[Tensor, ...], error: BaseException, running: list[str]) -> str:
    """Return what is wrong, with the module's path as far as it can be found."""
    if running:
        return f"{running[-1]} cannot be traced: {error}"
    operator = operator_of(error)
    if not operator:
        return f"the network cannot be written as ONNX: {error}"
    with torch.no_grad():
        name, path = find_operator(root, inputs, operator)
    return f"aten.{name or operator}{f' of {path}' if path else ''} has no ONNX form"
