"""Marks, embedding and novelty of an exported file: the contract, and that the parity check sees every fault."""

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

from model.contract.manifest import synthetic_images
from model.contract.marks import read_table
from model.explain.explainer import Explainer
from model.explain.fitted import NOTHING, Fitted
from model.export.export import ExportError, explainer_of, load_fitted, load_network, read
from model.export.graphs import initializers
from model.export.parity import check_parity
from model.export.running import ParityError, run
from model.export.tracing import trace
from tests.model.networks import (
    CLASSES,
    EMBEDDING,
    MARK_GRID,
    MARKS,
    SIZE,
    Exported,
    make_manifest,
    make_marked,
    make_small,
    open_as_users_do,
)

NONE, BEST = len(MARKS), np.full((7, 1), -1, dtype=np.int64)


def _ask(
    marked: Exported, mark: list[int], versus: int = CLASSES, count: int = 7
) -> dict[str, npt.NDArray[np.generic]]:
    codes = np.tile(np.array(mark, dtype=np.int64), (count, 1))
    return run(marked.runtime, marked.images[:count], BEST[:count], np.full_like(BEST[:count], versus), mark=codes)


def _explainer(marked: Exported) -> Explainer:
    network, manifest = load_network(marked.path)
    return explainer_of(network, manifest, fitted=load_fitted(marked.path))


def test_inputs_and_outputs_are_the_contracts(marked: Exported, capfd: pytest.CaptureFixture[str]) -> None:
    """In the contract's order, with free N, T and M; and a runtime has nothing to say."""
    manifest = load_network(marked.path)[1]
    assert manifest.inputs == [value.name for value in marked.runtime.get_inputs()]
    assert manifest.outputs == [value.name for value in marked.runtime.get_outputs()]
    shapes = {value.name: value.shape for value in (*marked.runtime.get_inputs(), *marked.runtime.get_outputs())}
    assert (["N", "M"], ["N", "M"]) == (shapes["mark"], shapes["marked"])
    assert (["N", EMBEDDING], ["N", NONE]) == (shapes["embedding"], shapes["marks"])
    assert ["N", "M", MARK_GRID, MARK_GRID] == shapes["mark_maps"]
    model = read(marked.path)
    assert [""] == [entry.domain for entry in model.opset_import]
    onnx.checker.check_model(model, full_check=True)
    open_as_users_do(marked.path)
    assert ("", "") == capfd.readouterr()


def test_manifest_says_what_there_is(marked: Exported) -> None:
    """The grid of the maps is filled in, names and table are the caller's, threshold and quantiles, too."""
    (_, given, fitted), manifest = make_marked(), load_network(marked.path)[1]
    assert manifest.marks is not None
    assert given.marks is not None
    assert given.marks.model_copy(update={"grid": (MARK_GRID, MARK_GRID)}) == manifest.marks
    assert manifest.embedding is not None
    assert (EMBEDDING, 30) == (manifest.embedding.size, manifest.embedding.num_photos)
    assert fitted.novelty is not None
    assert fitted.novelty.facts == manifest.novelty
    assert {"marks", "mark_ranks", "mark_maps", "embedding", "novelty"} <= manifest.parity.keys()


def test_the_table_in_the_graph_is_the_manifests(marked: Exported) -> None:
    """To the last bit, but for the unknown shares, which are 0 there."""
    manifest, stored = load_network(marked.path)[1], initializers(read(marked.path))
    assert manifest.marks is not None
    table = read_table(manifest.marks.table, CLASSES, NONE)
    assert np.isnan(table).sum() == 1
    np.testing.assert_array_equal(np.nan_to_num(table), onnx.numpy_helper.to_array(stored["marks.table"]))


def test_weights_values_and_bias_give_the_logit(marked: Exported) -> None:
    """With the file's maps, and the reading and calibration stored in it: what is shown is what was summed."""
    outputs = _ask(marked, [*range(NONE)])
    network, manifest = load_network(marked.path)
    stored = initializers(read(marked.path))
    x = torch.from_numpy(marked.images).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor(manifest.mean)[:, None, None]) / torch.tensor(manifest.std)[:, None, None]
    head = network.mark_head
    assert head is not None
    with torch.no_grad():
        features = network.read_marks(network.backbone.forward_maps(x)).features.numpy()
    scale, shift = (onnx.numpy_helper.to_array(stored[name]) for name in ("marks.scale", "marks.shift"))
    weight, bias = (part.detach().numpy() for part in head.readout)
    values = np.einsum("ad,ndhw->nahw", weight, features)
    logits = scale * (bias + (outputs["mark_maps"] * values).sum((2, 3))) + shift
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), outputs["marks"], atol=1e-5)


def test_ranks_are_by_seen_the_table_and_the_class_map(marked: Exported) -> None:
    """The best class alone, and against the second: computed again from the file's outputs and its manifest."""
    manifest = load_network(marked.path)[1]
    assert manifest.marks is not None
    table = np.nan_to_num(read_table(manifest.marks.table, CLASSES, NONE))
    for versus in (CLASSES, -2):
        outputs = _ask(marked, [-1, -2, -8], versus)
        first, second = np.argsort(-outputs["logits"].astype(float), axis=1)[:, :2].T
        typical = table[first] - (table[second] if versus == -2 else 0)
        class_map, places = outputs["gradcam"][:, :1], _ask(marked, [*range(NONE)])["mark_maps"]
        share = (class_map * places).sum((2, 3)) / class_map.mean((2, 3))
        order = np.argsort(-outputs["marks"] * typical * share, axis=1)
        np.testing.assert_array_equal(order[:, [0, 1, 7]], outputs["marked"])
        direct = run(marked.runtime, marked.images, BEST, BEST, mark=outputs["marked"].astype(np.int64))
        np.testing.assert_array_equal(direct["mark_maps"], outputs["mark_maps"])


@pytest.mark.parametrize("versus", [CLASSES + 1, -CLASSES - 1])
def test_an_invalid_contrast_leaves_ranks_without_a_mark(marked: Exported, versus: int) -> None:
    """The marks by index, the probabilities and the class stay."""
    outputs = _ask(marked, [-1, 4], versus)
    assert [[NONE, 4]] * 7 == outputs["marked"].tolist()
    assert np.isnan(outputs["mark_maps"][:, 0]).all()
    np.testing.assert_array_equal(_ask(marked, [4])["mark_maps"][:, 0], outputs["mark_maps"][:, 1])


def test_only_the_first_target_and_versus_rank(marked: Exported) -> None:
    """What else is explained does not matter, neither an invalid class nor an invalid layer."""
    target = np.tile(np.array([-1, CLASSES + 3], dtype=np.int64), (7, 1))
    versus, mark = np.full_like(target, CLASSES), np.full((7, 1), -1, dtype=np.int64)
    for layer in (0, 99):
        outputs = run(marked.runtime, marked.images, target, versus, layer, mark)
        assert _ask(marked, [-1])["marked"].tolist() == outputs["marked"].tolist()


@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_number_of_images_gives_each_the_same_answer(marked: Exported, count: int) -> None:
    """N and M were not frozen by the trace, and an image's answer does not depend on its neighbours."""
    codes = [-1, 0, NONE, -2, 5, 3, -3, 1]
    for asked in (codes[:1], codes[:3], codes):
        together, all_of_them = _ask(marked, asked, count=count), _ask(marked, codes)
        for name in ("marks", "mark_maps", "marked", "embedding", "novelty"):
            expected = all_of_them[name][:count]
            expected = expected[:, : len(asked)] if name.startswith("mark") and name != "marks" else expected
            np.testing.assert_allclose(together[name], expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(all_of_them["embedding"], axis=1), 1, atol=1e-5)


def test_the_file_gives_back_what_was_fitted(marked: Exported) -> None:
    """Calibration and mean as they were given, the axes as they are stored, and all of it makes the same graph."""
    given, found = make_marked()[2], load_fitted(marked.path)
    assert given.marks is not None
    assert given.embedding is not None
    assert found.marks is not None
    assert found.embedding is not None
    torch.testing.assert_close(found.marks, given.marks, rtol=0, atol=0)
    torch.testing.assert_close(found.embedding.mean, given.embedding.mean, rtol=0, atol=0)
    # Made anew here, on other threads perhaps: a value between two halves may be stored as either.
    torch.testing.assert_close(found.embedding.axes, given.embedding.axes.half().float(), rtol=2e-3, atol=1e-6)
    assert found.embedding.num_photos == given.embedding.num_photos
    assert given.novelty is not None
    assert found.novelty is not None
    torch.testing.assert_close(found.novelty[1:3], given.novelty[1:3], rtol=0, atol=0)
    torch.testing.assert_close(found.novelty.means, given.novelty.means.half().float(), rtol=2e-3, atol=1e-6)
    assert given.novelty.facts == found.novelty.facts
    report = check_parity(marked.path.read_bytes(), _explainer(marked), marked.images)
    assert max(report.errors.values()) < 1e-5


def test_a_file_without_them_gives_nothing(tiny: Exported) -> None:
    """There was nothing fitted."""
    assert load_fitted(tiny.path) == NOTHING


@pytest.mark.parametrize(
    "name",
    [
        *("marks.table", "marks.scale", "marks.shift", "embedding.mean", "embedding.axes", "mark_head.bias"),
        *("novelty.means", "novelty.scale", "novelty.offset"),
    ],
)
def test_one_changed_constant_is_noticed(marked: Exported, name: str) -> None:
    """A graph with another table, calibration or axis is refused."""
    model = read(marked.path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[:] = values.flat[::-1] * 0.9 + 0.01
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    with pytest.raises(ParityError):
        check_parity(model.SerializeToString(), _explainer(marked), marked.images)


@pytest.mark.parametrize("output", ["marks", "mark_maps", "embedding", "novelty", "marked"])
def test_a_wrong_output_is_noticed(marked: Exported, output: str) -> None:
    """Each output is compared."""
    model = read(marked.path)
    for node in model.graph.node:
        node.output[:] = ["right" if name == output else name for name in node.output]
        node.input[:] = ["right" if name == output else name for name in node.input]
    wrong = np.int64(0) if output == "marked" else np.float32(1.001)
    model.graph.initializer.append(onnx.numpy_helper.from_array(wrong, "factor"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["right", "factor"], [output]))
    with pytest.raises(ParityError, match="mark_ranks" if output == "marked" else output):
        check_parity(model.SerializeToString(), _explainer(marked), marked.images)


def test_maps_of_contributions_are_compared_too() -> None:
    """They are in the graph where the manifest asks for them, and errors are measured by their terms."""
    network, manifest, fitted = make_marked(3, "contributions")
    explainer = explainer_of(network, manifest, fitted=Fitted(fitted.marks))
    explainer.classifier.layers = explainer.classifier.layers[:1]
    report = check_parity(trace(explainer, SIZE).SerializeToString(), explainer, synthetic_images(4, 2, SIZE))
    assert 0 < report.errors["mark_maps"] < 1e-5
    assert {"embedding", "novelty"}.isdisjoint(explainer.outputs)


@pytest.mark.parametrize("listed", [0, 3])
def test_a_manifest_of_other_marks_is_refused(listed: int) -> None:
    """It must list as many marks as the network reads, none too."""
    manifest = make_marked(listed)[1] if listed else make_manifest()
    with pytest.raises(ExportError, match=f"lists {listed} marks for a network that reads {len(MARKS)}"):
        explainer_of(make_marked()[0], manifest)


@pytest.mark.parametrize("part", ["embedding", "novelty"])
def test_a_foreign_module_has_no_embedding(part: str) -> None:
    """What it pools is unknown."""
    fitted = Fitted(**{part: getattr(make_marked()[2], part)})
    with pytest.raises(ExportError, match="only a network of this project has an embedding"):
        explainer_of(make_small(), make_manifest(), "last", fitted=fitted)
