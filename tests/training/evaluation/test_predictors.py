"""Networks with marks, asked in torch and as the exported file: the same answers, one pass each."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.contract.manifest import Manifest, synthetic_images
from model.explain.fitted import Fitted
from model.explain.marks import MarkReader
from model.export.export import export
from model.network.network import Network
from tests.model.networks import CLASSES, MARK_GRID, MARKS, SIZE, make_marked
from training.data.transforms import Normalise
from training.evaluation.predictors import (
    file_asker,
    joined,
    network_asker,
    onnx_predictor,
    pair_maps,
    torch_predictor,
)

Made = tuple[Network, Manifest, Fitted, Path]
COUNT = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return a network with marks, what is known of it, and its file."""
    network, manifest, fitted = make_marked()
    path = tmp_path_factory.mktemp("marked") / "marked.onnx"
    export(network, manifest, path, images=synthetic_images(3, 4, SIZE), weights_dtype="fp32", fitted=fitted)
    return network, manifest, fitted, path


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Return photos as predictors take them."""
    return torch.from_numpy(synthetic_images(11, COUNT, SIZE)).permute(0, 3, 1, 2)


def in_torch(made: Made) -> tuple[Network, Normalise, MarkReader]:
    """Return the network with what makes its input, and the reader of its marks."""
    network, manifest, fitted, _ = made
    assert manifest.marks is not None
    reader = MarkReader(network.mark_head, manifest.marks, CLASSES, fitted.marks)  # type: ignore[arg-type]
    return network, Normalise(manifest.mean, manifest.std, torch.device("cpu")), reader


def test_a_file_answers_as_its_network(made: Made, images: Tensor) -> None:
    """Logits, maps, how surely each mark is seen, the map of every mark in its order, and the marks' ranks."""
    network, normalise, reader = in_torch(made)
    ours = torch_predictor(network, normalise, reader=reader)(images)
    predict, manifest = onnx_predictor(made[3])
    theirs = predict(images)
    assert ours.marks is not None
    assert theirs.marks is not None
    assert theirs.marks.maps.shape == (COUNT, len(MARKS), MARK_GRID, MARK_GRID)
    assert manifest.marks is not None
    np.testing.assert_allclose(theirs.logits, ours.logits, atol=1e-4)
    np.testing.assert_allclose(theirs.marks.seen, ours.marks.seen, atol=1e-5)
    np.testing.assert_allclose(theirs.marks.maps, ours.marks.maps, atol=1e-5)
    np.testing.assert_array_equal(theirs.marks.ranked, ours.marks.ranked)
    layer = manifest.layers[0].name
    np.testing.assert_allclose(theirs.gradcam[layer], ours.gradcam[layer], atol=1e-5)
    np.testing.assert_allclose(theirs.contrast[layer], ours.contrast[layer], atol=1e-5)
    assert joined([theirs, theirs]).marks is None, "the maps of all marks of all photos are not kept"


def test_what_reads_no_marks_feeds_none(made: Made, images: Tensor) -> None:
    """Every layer's maps, and the contrast of chosen classes, come from a file with marks as from one without."""
    predict, manifest = onnx_predictor(made[3], every_layer=True)
    answer = predict(images)
    assert answer.marks is None
    assert list(answer.gradcam) == [layer.name for layer in manifest.layers]
    classes = np.array([0, 1, 2])
    assert (
        pair_maps(made[3], images, classes, classes[::-1].copy())[:, 0].shape
        == answer.gradcam[manifest.layers[0].name].shape
    )
    network, normalise, _ = in_torch(made)
    assert torch_predictor(network, normalise)(images).marks is None


def test_blurred_photos_get_logits_and_marks_alone(made: Made, images: Tensor) -> None:
    """In torch and from the file, equal to those of the whole answer."""
    network, normalise, reader = in_torch(made)
    whole = torch_predictor(network, normalise, reader=reader)(images)
    assert whole.marks is not None
    for ask in (file_asker(made[3]), network_asker(network, normalise, reader)):
        logits, seen = ask(images)
        np.testing.assert_allclose(logits, whole.logits, atol=1e-4)
        np.testing.assert_allclose(seen, whole.marks.seen, atol=1e-5)
