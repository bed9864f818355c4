"""Classifying without maps: the cut graph, and the run in torch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import service
from model.contract.graph import codes_of_best, feeds, no_mark, softmax
from model.contract.manifest import ManifestError
from training.checkpoint import load_selected
from training.data.transforms import Normalise
from training.evaluation.maps.classifier import classifier_of, classifying_graph
from training.fit.job import Job
from training.fit.loop import fit

BUNDLED = Path(service.__file__).parent / "bundled" / "cub50" / "2.onnx"


def pixels(count: int, size: int) -> torch.Tensor:
    """Return images, uint8, (n, 3, S, S)."""
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_cut_graph_gives_the_files_probabilities() -> None:
    """Those of the whole graph, to its rounding, at any batch size, and nothing of the maps is left."""
    images = pixels(2, 288)
    session = onnxruntime.InferenceSession(str(BUNDLED), providers=["CPUExecutionProvider"])
    none = np.full((2, 1), no_mark(312))
    inputs = feeds(np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy()), *codes_of_best(2, 50), mark=none)
    expected = session.run(["probabilities"], inputs)[0]
    classifier = classifier_of(BUNDLED)
    np.testing.assert_allclose(classifier.classify(images.float()), expected, atol=1e-6)
    np.testing.assert_allclose(classifier.classify(images[:1].float()), expected[:1], atol=1e-6)
    whole = onnx.load(str(BUNDLED))
    part = classifying_graph(whole)
    assert ["image"] == [value.name for value in part.graph.input]
    assert {"TopK", "If"}.isdisjoint(node.op_type for node in part.graph.node)
    assert len(part.graph.node) < len(whole.graph.node)


def test_pixels_may_lie_between_levels() -> None:
    """Half a level more is something else than a level more: nothing is rounded."""
    classifier, images = classifier_of(BUNDLED), pixels(1, 288).float().clamp(max=254)
    same, half, whole = (classifier.classify(images + more) for more in (0, 0.5, 1))
    assert (same != half).any()
    assert (half != whole).any()


def test_a_run_classifies_in_torch(make_job: Callable[..., Job]) -> None:
    """Calibrated probabilities of the run's network, and the mean of its normalisation."""
    job = make_job(optim__epochs=1)
    fit(job)
    selected, images = load_selected(job.out), pixels(3, 48)
    data = selected.recipe.data
    with torch.no_grad():
        logits = selected.network()(Normalise(data.mean, data.std, torch.device("cpu"))(images))
    classifier = classifier_of(job.out)
    expected = softmax(logits.numpy(), selected.temperature)
    np.testing.assert_allclose(classifier.classify(images.float()), expected, atol=1e-6)
    assert tuple(255 * value for value in data.mean) == classifier.mean


def test_what_is_no_file_of_ours_is_refused(tmp_path: Path) -> None:
    """In words, not in protobuf's."""
    (tmp_path / "x.onnx").write_bytes(b"not a graph")
    with pytest.raises(ManifestError, match=r"x\.onnx"):
        classifier_of(tmp_path / "x.onnx")
