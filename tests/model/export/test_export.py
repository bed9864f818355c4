"""The exported file: the graph contract, the way back to torch, and the refusal to write what is wrong."""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import Tensor, nn

from model.contract.manifest import Manifest, ManifestError, synthetic_images
from model.export.export import ExportError, export, load_network, read
from model.export.graphs import count_operators, initializers
from model.export.running import ParityError, run
from model.network.attention import Attended
from model.network.network import Network, NetworkConfig
from tests.model.networks import CLASSES, SIZE, Exported, make_manifest, make_network, textbook_map

NONE = CLASSES
"""Code of `versus` for no contrast."""


def _codes(*rows: list[int]) -> npt.NDArray[np.int64]:
    return np.array(rows, dtype=np.int64)


def _ask(
    tiny: Exported, target: npt.NDArray[np.int64], versus: npt.NDArray[np.int64] | None = None, layer: int = 0
) -> dict[str, npt.NDArray[np.generic]]:
    versus = np.full_like(target, NONE) if versus is None else versus
    return run(tiny.runtime, tiny.images[: len(target)], target, versus, layer)


def _normalised(manifest: Manifest, images: npt.NDArray[np.uint8]) -> Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor(manifest.mean), torch.tensor(manifest.std)
    return (x - mean[:, None, None]) / std[:, None, None]


def test_inputs_and_outputs_are_the_contracts(tiny: Exported) -> None:
    """Names, types and free axes are those that the service and Triton rely on."""
    inputs = {value.name: (value.type, value.shape) for value in tiny.runtime.get_inputs()}
    assert inputs == {
        "image": ("tensor(uint8)", ["N", SIZE, SIZE, 3]),
        "target": ("tensor(int64)", ["N", "T"]),
        "versus": ("tensor(int64)", ["N", "T"]),
        "layer": ("tensor(int64)", []),
    }
    outputs = {value.name: (value.type, value.shape[:2]) for value in tiny.runtime.get_outputs()}
    assert outputs == {
        "logits": ("tensor(float)", ["N", CLASSES]),
        "probabilities": ("tensor(float)", ["N", CLASSES]),
        "attention": ("tensor(float)", ["N", 3]),
        "gradcam": ("tensor(float)", ["N", "T"]),
        "explained": ("tensor(int64)", ["N", "T"]),
    }
    assert list(outputs) == ["logits", "probabilities", "attention", "gradcam", "explained"]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_number_of_images_gives_each_the_same_answer(tiny: Exported, count: int) -> None:
    """N was not frozen by the trace, and an image's answer does not depend on its neighbours."""
    target = np.tile(_codes([0, -1]), (count, 1))
    together = _ask(tiny, target)
    assert together["gradcam"].shape == (count, 2, 3, 3)
    for index in range(count):
        image = tiny.images[index : index + 1]
        alone = run(tiny.runtime, image, target[:1], np.full((1, 2), NONE, dtype=np.int64))
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][index], value[0], atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_any_number_of_targets_gives_each_the_same_map(tiny: Exported, count: int) -> None:
    """T was not frozen by the trace, and a map does not depend on what else is asked."""
    target = np.resize(np.arange(CLASSES, dtype=np.int64), (1, count))
    together = _ask(tiny, target)
    for index in range(count):
        alone = _ask(tiny, target[:, index : index + 1])
        np.testing.assert_allclose(together["gradcam"][:, index], alone["gradcam"][:, 0], atol=1e-6)


def test_logits_and_maps_are_those_of_the_loaded_network(tiny: Exported) -> None:
    """The file equals plain torch code on the network that is built from it."""
    network, manifest = load_network(tiny.path)
    x = _normalised(manifest, tiny.images)
    with torch.no_grad():
        attended = network.forward_features(x)
    feature_map = attended.feature_map.requires_grad_()
    logits = network.forward_head(feature_map)
    outputs = _ask(tiny, np.full((7, 1), 3, dtype=np.int64))
    np.testing.assert_allclose(outputs["logits"], logits.detach(), atol=1e-4)
    np.testing.assert_allclose(outputs["probabilities"], torch.softmax(logits / 1.7, 1).detach(), atol=1e-5)
    assert attended.attention is not None
    np.testing.assert_allclose(outputs["attention"], attended.attention, atol=1e-5)
    expected = textbook_map(logits[:, 3], feature_map)
    assert float(expected.max()) > 0
    np.testing.assert_allclose(outputs["gradcam"][:, 0], expected, atol=1e-5 * float(expected.max()))


def test_ranks_are_the_classes_by_logit(tiny: Exported) -> None:
    """-1…-K are the ranks, and the map of a rank is that of its class."""
    ranks = np.tile(-np.arange(1, CLASSES + 1, dtype=np.int64), (7, 1))
    by_rank = _ask(tiny, ranks)
    order = np.argsort(-by_rank["logits"].astype(float), axis=1, kind="stable")
    np.testing.assert_array_equal(by_rank["explained"], order)
    by_class = _ask(tiny, order)
    np.testing.assert_array_equal(by_rank["gradcam"], by_class["gradcam"])


def test_contrast_is_the_map_of_a_difference(tiny: Exported) -> None:
    """Target against versus is Grad-CAM of the difference of their logits, and ranks work on both sides."""
    network, manifest = load_network(tiny.path)
    x = _normalised(manifest, tiny.images)
    feature_map = network.forward_features(x).feature_map.detach().requires_grad_()
    logits = network.forward_head(feature_map)
    best, second = logits.topk(2, dim=1).indices.T
    expected = textbook_map((logits.gather(1, best[:, None]) - logits.gather(1, second[:, None]))[:, 0], feature_map)
    outputs = _ask(tiny, np.full((7, 1), -1, dtype=np.int64), np.full((7, 1), -2, dtype=np.int64))
    np.testing.assert_allclose(outputs["gradcam"][:, 0], expected, atol=1e-5 * float(expected.max()))
    np.testing.assert_array_equal(outputs["explained"][:, 0], best)


def test_contrast_of_a_class_with_itself_is_all_zero(tiny: Exported) -> None:
    """The graph answers zeros; refusing the question is the service's part."""
    outputs = _ask(tiny, _codes([-1, 2]), _codes([-1, 2]))
    assert not outputs["gradcam"].any()


@pytest.mark.parametrize("code", [CLASSES, -CLASSES - 1, 10**9, 2**63 - 1, -(2**63)])
def test_invalid_targets_are_nan_and_leave_the_others_alone(tiny: Exported, code: int) -> None:
    """A code outside the contract never gives another class's map."""
    outputs = _ask(tiny, _codes([1, code]))
    assert np.isnan(outputs["gradcam"][0, 1]).all()
    assert outputs["explained"].tolist() == [[1, -1]]
    np.testing.assert_array_equal(outputs["gradcam"][:, :1], _ask(tiny, _codes([1]))["gradcam"])


@pytest.mark.parametrize("code", [CLASSES + 1, -CLASSES - 1, 2**63 - 1, -(2**63)])
def test_invalid_contrasts_are_nan(tiny: Exported, code: int) -> None:
    """The same holds for `versus`, where K means none."""
    outputs = _ask(tiny, _codes([1, 1]), _codes([code, NONE]))
    assert np.isnan(outputs["gradcam"][0, 0]).all()
    assert np.isfinite(outputs["gradcam"][0, 1]).all()
    assert outputs["explained"].tolist() == [[-1, 1]]


@pytest.mark.parametrize("layer", [-1, 99])
def test_invalid_layers_are_nan(tiny: Exported, layer: int) -> None:
    """A layer that the file does not have never gives another layer's map; the class is still returned."""
    outputs = _ask(tiny, _codes([1]), layer=layer)
    assert np.isnan(outputs["gradcam"]).all()
    assert outputs["explained"].tolist() == [[-1]]
    np.testing.assert_array_equal(outputs["logits"], _ask(tiny, _codes([1]))["logits"])


def test_only_standard_operators_and_no_external_data(tiny: Exported) -> None:
    """Any runtime can run the file, and the file is all it needs."""
    model = onnx.load(str(tiny.path))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert not model.functions
    assert all(t.data_location == onnx.TensorProto.DEFAULT for t in model.graph.initializer)
    onnx.checker.check_model(model, full_check=True)


def test_nothing_of_this_machine_is_in_the_file(tiny: Exported) -> None:
    """The exporter's stack traces, with paths of the exporting machine, are left out."""
    content = tiny.path.read_bytes()
    assert b".py" not in content
    assert str(Path.cwd()).encode() not in content


def test_manifest_says_what_the_file_is(tiny: Exported) -> None:
    """What only the exporter knows is filled in; what the caller said is kept."""
    manifest = Manifest.from_metadata({e.key: e.value for e in read(tiny.path).metadata_props})
    assert NetworkConfig.from_dict(manifest.network) == tiny.network.config
    assert (manifest.attention, manifest.has_attention) == ("guided", True)
    assert (manifest.precision, manifest.weights_dtype) == ("fp32", "fp16")
    last = manifest.layers[0]
    assert (last.name, last.channels, last.grid) == ("features.12", 512, (3, 3))
    assert manifest.operators == count_operators(read(tiny.path).graph)
    assert manifest.parity == tiny.report.to_metrics()
    assert set(manifest.provenance.tools) == {"torch", "torchvision", "onnx"}
    given = make_manifest()
    assert (manifest.labels, manifest.temperature, manifest.mean) == (given.labels, given.temperature, given.mean)


def test_self_check_is_what_the_graph_answers(tiny: Exported) -> None:
    """A server can prove that the loaded file computes as exported."""
    manifest = load_network(tiny.path)[1]
    assert manifest.self_check is not None
    check = manifest.self_check
    images = synthetic_images(check.seed, len(check.logits), manifest.input_size)
    codes = np.full((len(images), 1), -1, dtype=np.int64)
    logits = run(tiny.runtime, images, codes, np.full_like(codes, NONE))["logits"]
    assert float(np.abs(logits - np.array(check.logits)).max()) < check.tolerance / 10


def test_weights_keep_their_names_and_are_stored_as_fp16(tiny: Exported) -> None:
    """Every parameter stands in the file once, by its state dict's name; matrices as fp16, vectors as they are."""
    stored = initializers(read(tiny.path))
    for name, tensor in tiny.network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        half = tensor.dim() >= 2
        assert stored[name].data_type == (onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT)
        expected = tensor.half() if half else tensor
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(stored[name]), expected)


def test_network_survives_the_file(tiny: Exported, tmp_path: Path) -> None:
    """Exporting what was loaded from an export gives the same answers, bit by bit."""
    network, manifest = load_network(tiny.path)
    export(network, manifest, tmp_path / "again.onnx", images=tiny.images)
    again, same = load_network(tmp_path / "again.onnx")
    for (name, first), second in zip(network.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(first, second), name
    assert same == manifest.model_copy(update={"provenance": same.provenance})
    before = {i.name: i.SerializeToString() for i in read(tiny.path).graph.initializer}
    assert before == {i.name: i.SerializeToString() for i in read(tmp_path / "again.onnx").graph.initializer}


def test_fp32_weights_are_exact(tmp_path: Path) -> None:
    """Without rounding the loaded network is the exported one."""
    network = make_network(attention="none", head="linear", pooling="avg")
    images = synthetic_images(0, 1, SIZE)
    export(network, make_manifest(), tmp_path / "exact.onnx", images=images, weights_dtype="fp32")
    loaded, manifest = load_network(tmp_path / "exact.onnx")
    assert manifest.weights_dtype == "fp32"
    assert manifest.has_attention is False
    assert "attention" not in [value.name for value in read(tmp_path / "exact.onnx").graph.output]
    for name, tensor in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, loaded.state_dict()[name])


def test_exporting_changes_nothing_in_the_network(tiny: Exported) -> None:
    """The network keeps its float32 weights, its gradients and its in-place activations."""
    fresh = make_network()
    for name, tensor in tiny.network.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor)
    assert all(parameter.requires_grad for parameter in tiny.network.parameters())
    assert any(getattr(module, "inplace", False) for module in tiny.network.modules())


class _Fickle(nn.Module):
    """An attention whose answer depends on how often it was asked: no trace can be right."""

    has_attention = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels, self.calls = channels, 0

    def forward(self, x: Tensor) -> Attended:
        self.calls += 1
        return Attended(x * self.calls)


def _fickle_network() -> Network:
    network = make_network(attention="none")
    network.attention = _Fickle(network.in_channels)
    return network


def test_a_graph_that_disagrees_is_not_written(tmp_path: Path) -> None:
    """The parity check refuses, leaves no file, no temporary one, and an old file as it was."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the old model")
    with pytest.raises(ParityError, match=r"disagrees with the network in [a-z]"):
        export(_fickle_network(), make_manifest(), path, images=synthetic_images(0, 2, SIZE))
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == b"the old model"


def test_a_manifest_of_other_classes_is_refused(tmp_path: Path) -> None:
    """Labels must be as many as the network's classes."""
    with pytest.raises(ExportError, match=re.escape("3 labels for logits of the shape (N, 5)")):
        export(
            make_network(attention="none"),
            make_manifest(labels=("a", "b", "c")),
            tmp_path / "model.onnx",
            images=synthetic_images(0, 1, SIZE),
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, SIZE, SIZE, 3), np.uint8),
        np.zeros((1, SIZE, SIZE + 1, 3), np.uint8),
        np.zeros((1, SIZE, SIZE, 3), np.float32),
        np.zeros((1, 3, SIZE, SIZE), np.uint8),
    ],
)
def test_images_must_be_of_the_manifests_size(tmp_path: Path, images: npt.NDArray[np.uint8]) -> None:
    """Parity is measured on real images of the right form, or the export is refused."""
    with pytest.raises(ExportError, match=re.escape(f"(n ≥ 1, {SIZE}, {SIZE}, 3)")):
        export(make_network(attention="none"), make_manifest(), tmp_path / "model.onnx", images=images)


def test_weights_out_of_range_of_fp16_are_refused(tmp_path: Path) -> None:
    """A weight that would become infinite is named, with the way out."""
    network = make_network(attention="none")
    with torch.no_grad():
        network.head[1].weight[0, 0] = 1e6
    with pytest.raises(ExportError, match=r"head\.1\.weight is out of the range of fp16"):
        export(network, make_manifest(), tmp_path / "model.onnx", images=synthetic_images(0, 1, SIZE))


def test_files_without_a_manifest_or_with_missing_weights_are_refused(tiny: Exported, tmp_path: Path) -> None:
    """What cannot be built again is refused with the reason."""
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(ManifestError, match=r"text\.onnx"):
        load_network(tmp_path / "text.onnx")
    model = read(tiny.path)
    index = next(i for i, tensor in enumerate(model.graph.initializer) if tensor.name == "head.1.weight")
    del model.graph.initializer[index]
    (tmp_path / "robbed.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=r"holds no weights named head\.1\.weight"):
        load_network(tmp_path / "robbed.onnx")
    del model.metadata_props[:]
    (tmp_path / "bare.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ManifestError, match="no manifest"):
        load_network(tmp_path / "bare.onnx")
