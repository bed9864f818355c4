"""Files of schema version 1, from before there were marks, embedding and novelty: they answer as they did.

`tests/data/version1.onnx.xz` was exported by the code of that time: SqueezeNet with guided attention, five classes,
64 px, its weights repeated so that the file packs well; `version1.npz` holds what it answered.
"""

import lzma
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from model.contract.manifest import SCHEMA_VERSION, Manifest, synthetic_images
from model.explain.fitted import NOTHING
from model.export.export import export, load_fitted, load_network
from service.inference.engine import OnnxEngine, Question
from service.inference.verify import check_layers, self_check
from service.settings import Settings

DATA = Path(__file__).parents[1] / "data"
TARGET, VERSUS, CLASSES = [-1, 2], [5, -2], 5


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of the file."""
    path = tmp_path_factory.mktemp("old") / "version1.onnx"
    path.write_bytes(lzma.decompress((DATA / "version1.onnx.xz").read_bytes()))
    return path


@pytest.fixture(scope="module")
def answers() -> dict[str, npt.NDArray[np.generic]]:
    """Return what it answered about `synthetic_images(3, 2, 64)`."""
    with np.load(DATA / "version1.npz") as arrays:
        return dict(arrays)


def _check(engine: OnnxEngine, answers: dict[str, npt.NDArray[np.generic]], tolerance: float) -> None:
    images = synthetic_images(3, 2, 64)
    for layer in (0, 1):
        for index, image in enumerate(images):
            outputs = engine.run(image[None], Question.about(engine.manifest, TARGET, VERSUS, layer)).present()
            expected = {**answers, "gradcam": answers[f"gradcam.{layer}"]}
            assert {"logits", "probabilities", "attention", "gradcam", "explained"} == outputs.keys()
            for name, value in outputs.items():
                largest = float(np.abs(expected[name]).max())
                np.testing.assert_allclose(value[0], expected[name][index], atol=tolerance * largest, err_msg=name)


def test_the_service_answers_as_before(old: Path, answers: dict[str, npt.NDArray[np.generic]]) -> None:
    """It is accepted, passes its own check, and has none of what came later."""
    engine = OnnxEngine(old, Settings(device="cpu"))
    self_check(engine)
    check_layers(engine)
    manifest = engine.manifest
    assert (1, None, None, None) == (manifest.schema_version, manifest.embedding, manifest.novelty, manifest.marks)
    assert {None} == {layer.centres for layer in manifest.layers}
    _check(engine, answers, 1e-5)


def test_it_is_exported_anew_as_the_latest_version(
    old: Path, answers: dict[str, npt.NDArray[np.generic]], tmp_path: Path
) -> None:
    """The network that is built from it is the one it was; the new file says where its cells look."""
    network, manifest = load_network(old)
    assert (None, NOTHING) == (network.mark_head, load_fitted(old))
    export(network, manifest, tmp_path / "new.onnx", images=synthetic_images(4, 1, 64))
    engine = OnnxEngine(tmp_path / "new.onnx", Settings(device="cpu"))
    assert engine.manifest.schema_version == SCHEMA_VERSION
    assert engine.manifest.layers[0].centres == (15, 15, 16, 16)
    _check(engine, answers, 1e-4)


def test_a_later_version_is_refused(old: Path) -> None:
    """Its graph may mean something else."""
    manifest = load_network(old)[1].model_copy(update={"schema_version": SCHEMA_VERSION + 1})
    with pytest.raises(ValueError, match=f"reads up to {SCHEMA_VERSION}"):
        Manifest.from_metadata(manifest.to_metadata())
