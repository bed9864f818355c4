"""Whatever the network, its size, the batch and the question: the graph answers what torch answers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.contract.geometry import Resize
from model.explain.explainer import Explainer
from model.export.export import explainer_of
from model.export.running import run, session
from model.export.tracing import trace
from tests.model.networks import SMALL_LAYERS, make_manifest, make_small


@pytest.mark.slow
@settings(max_examples=4, deadline=None, derandomize=True, database=None)
@given(
    seed=st.integers(0, 1000),
    width=st.sampled_from([2, 4, 6]),
    groups=st.sampled_from([1, 2]),
    num_classes=st.integers(2, 12),
    size=st.integers(17, 48),
    pool=st.sampled_from([2, 3]),
    questions=st.data(),
)
def test_graph_equals_torch(
    seed: int, width: int, groups: int, num_classes: int, size: int, pool: int, questions: st.DataObject
) -> None:
    """Random network, input size, batches of 1 to 9, any codes, valid or not, on every layer."""
    manifest = make_manifest(
        labels=tuple(f"class {index}" for index in range(num_classes)), resize=Resize(size=size, crop=size)
    )
    network = make_small(seed, width=width, groups=groups, num_classes=num_classes, pool=pool)
    explainer = explainer_of(network, manifest, SMALL_LAYERS).double()
    runtime = session(trace(explainer_of(network, manifest, SMALL_LAYERS), size).SerializeToString())
    for batch in questions.draw(st.lists(st.integers(1, 9), min_size=3, max_size=3, unique=True), "batches"):
        targets = questions.draw(st.integers(1, 8), "targets")
        code = st.integers(-num_classes - 2, num_classes + 2)
        codes = st.lists(code, min_size=batch * targets, max_size=batch * targets)
        target = np.array(questions.draw(codes, "target"), dtype=np.int64).reshape(batch, targets)
        versus = np.array(questions.draw(codes, "versus"), dtype=np.int64).reshape(batch, targets)
        images = np.random.default_rng(seed).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
        for layer in range(len(SMALL_LAYERS)):
            _check(run(runtime, images, target, versus, layer), explainer, images, target, versus, layer)


def _check(
    found: dict[str, np.ndarray],  # type: ignore[type-arg]
    explainer: Explainer,
    images: np.ndarray,  # type: ignore[type-arg]
    target: np.ndarray,  # type: ignore[type-arg]
    versus: np.ndarray,  # type: ignore[type-arg]
    layer: int,
) -> None:
    tensors = (torch.from_numpy(images), torch.from_numpy(target), torch.from_numpy(versus), torch.tensor(layer))
    with torch.no_grad():
        logits, probabilities, last, explained, *earlier = explainer(*tensors)
    np.testing.assert_allclose(found["logits"], logits, atol=1e-4)
    np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-5)
    np.testing.assert_array_equal(found["explained"], explained)
    expected = (last, *earlier)[layer].numpy()
    np.testing.assert_array_equal(np.isnan(found["gradcam"]), np.isnan(expected))
    largest = float(np.nanmax(expected, initial=1e-3))
    np.testing.assert_allclose(found["gradcam"], expected, atol=1e-3 * largest, rtol=1e-3)
