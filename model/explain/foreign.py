"""Classifiers that were not built here: any torch module with a convolutional feature map can be explained."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from model.explain.explainer import ExplainableClassifier, Gradients, Passed, copies_of, mean_gradients


class LayerError(ValueError):
    """A layer cannot be explained; the message names it and says why."""


class ExplainableModule(ExplainableClassifier):
    """Any classifier, explained at the outputs of some of its modules.

    The part behind a layer is unknown, so it runs once for every target, on copies of the layer's output:
    for a last stage that is pooling and a linear layer.

    Args:
        network: takes normalised images, (N, 3, S, S), and returns logits, (N, K).
        layers: paths of modules inside it, the last stage first; each must return (N, C, h, w), run once, and
            have no connection that bypasses it.

    Raises:
        LayerError: there is no such layer.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str]) -> None:
        super().__init__(network, layers)
        names = [name for name, _ in network.named_modules() if name]
        for layer in self.layers:
            if layer not in names:
                nearest = difflib.get_close_matches(layer, names, n=5, cutoff=0) or names[-5:]
                raise LayerError(f"there is no layer {layer!r}; near it are {', '.join(nearest)}")

    def forward(self, x: Tensor) -> Passed:
        """Classify normalised images, (N, 3, S, S)."""
        with self._tapped() as maps:
            logits = self._logits(x)
        return Passed(logits, tuple(maps[layer] for layer in self.layers), None)

    def last_gradients(self, x: Tensor, passed: Passed, cotangent: Tensor) -> Tensor:
        """Return `mean_hw(dy/dA)` of the first layer in `layers`, (N, T, C)."""
        return self._gradients(x, passed, cotangent, self.layers[:1]).weights[0]

    def earlier_gradients(self, x: Tensor, passed: Passed, cotangent: Tensor) -> Gradients:
        """Go from the earliest layer to the logits once, and back through all layers but the last stage."""
        return self._gradients(x, passed, cotangent, self.layers[1:])

    def _gradients(self, x: Tensor, passed: Passed, cotangent: Tensor, layers: tuple[str, ...]) -> Gradients:
        start = layers[-1]
        copies = copies_of(passed.maps[self.layers.index(start)], cotangent)
        # Everything before the layer runs again for nothing: a trace drops it.
        with torch.enable_grad(), self._tapped(start, copies) as maps:
            logits = self._logits(x)
            return mean_gradients(logits, tuple(maps[layer] for layer in layers), cotangent)

    def _logits(self, x: Tensor) -> Tensor:
        """Run the module in its own float type."""
        dtype = next((parameter.dtype for parameter in self.network.parameters()), x.dtype)
        logits: Tensor = self.network(x.to(dtype))
        return logits.to(x.dtype)

    @contextmanager
    def _tapped(self, replaced: str | None = None, replacement: Tensor | None = None) -> Iterator[dict[str, Tensor]]:
        """Collect the layers' outputs of the calls inside; one layer's output may be replaced."""
        maps: dict[str, Tensor] = {}

        def tap(layer: str, output: Tensor) -> Tensor:
            maps[layer] = output if layer != replaced or replacement is None else replacement
            # The network continues with a copy: a following in-place activation must not change the map.
            return maps[layer].clone()

        with self.hooked(tap):
            yield maps

    @contextmanager
    def hooked(self, hook: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
        """Replace every layer's output by what a function of the layer and its output returns.

        Raises:
            LayerError: a layer does not run, runs more than once, or returns no feature map.
        """
        ran: set[str] = set()

        def checked(layer: str, output: object) -> Tensor:
            if layer in ran:
                raise LayerError(f"the layer {layer!r} runs more than once in a pass")
            ran.add(layer)
            if not isinstance(output, Tensor):
                raise LayerError(f"the layer {layer!r} returns no tensor: {type(output).__name__}")
            if output.dim() != 4:
                raise LayerError(f"the layer {layer!r} returns {tuple(output.shape)}, not a feature map (N, C, h, w)")
            return hook(layer, output)

        handles = [
            self.network.get_submodule(layer).register_forward_hook(
                lambda module, args, output, layer=layer: checked(layer, output)
            )
            for layer in self.layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        for layer in self.layers:
            if layer not in ran:
                raise LayerError(f"the layer {layer!r} did not run")


def check_separates(classifier: ExplainableModule, size: int) -> None:
    """Raise unless the logits depend on every layer, and on the image through the layer alone.

    Only shapes are checked; nothing is computed.

    Args:
        classifier: in evaluation mode.
        size: side S of the images, pixels.

    Raises:
        LayerError: a layer is not used, or a connection bypasses it.
    """
    reached: list[tuple[str, Tensor, Tensor]] = []

    def cut(layer: str, output: Tensor) -> Tensor:
        # Every layer's maps are replaced by others, with two more images each time: a connection that bypasses a
        # layer then has fewer images than the layer, and the shapes do not match.
        other = output.new_zeros((len(output) + 2, *output.shape[1:])).requires_grad_()
        reached.append((layer, output, other))
        return other.clone()

    unknown = (DataDependentOutputException, DynamicOutputShapeException)
    # What depends on values cannot be traced either; the trace reports it, and in which module.
    with FakeTensorMode(allow_non_fake_inputs=True), suppress(*unknown):
        x = torch.zeros(2, 3, size, size)
        try:
            with torch.enable_grad(), classifier.hooked(cut):
                logits = classifier.network(x)
            ends = [output for _, output, _ in reached[1:]] + [logits]
            for (*_, other), end in reversed([*zip(reached, ends, strict=True)]):
                torch.autograd.grad(end.sum(), other, retain_graph=True)
                reached.pop()
        except unknown:
            raise
        except RuntimeError as error:
            classifier(x)  # a module that cannot run at all raises its own error
            layer = reached[-1][0] if reached else classifier.layers[-1]
            raise LayerError(
                f"the layer {layer!r} cannot be explained: the logits do not depend on it, or part of the network goes "
                f"around it ({error})"
            ) from error
