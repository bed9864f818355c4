"""Classifiers that were not built here: explained at any layer, or refused with the layer's name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from model.contract.geometry import Resize
from model.contract.manifest import ManifestError, synthetic_images
from model.explain.foreign import ExplainableModule, LayerError, check_separates
from model.export.export import ExportError, export, load_network, read
from model.export.graphs import count_operators, subgraphs
from model.export.running import run, session
from model.export.tracing import GraphError
from tests.model.networks import CLASSES, SMALL_LAYERS, SmallNet, make_manifest, make_small, textbook_map

SIZE = 40
MANIFEST = make_manifest(resize=Resize(size=SIZE, crop=SIZE))
IMAGES = synthetic_images(5, 7, SIZE)
CALLS = torch.zeros(())
"""What a network counts that keeps a state."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a foreign classifier's file with three explainable layers, compared with the peers."""
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    report = export(make_small(), MANIFEST, path, images=IMAGES, layer=SMALL_LAYERS, peers=True)
    assert set(report.peers) == {"captum", "torchcam", "pytorch-grad-cam"}
    assert max(report.peers.values()) < 1e-4
    assert "pytorch-grad-cam" in str(report)
    return path


def _hooked_map(network: nn.Module, layer: str, x: Tensor, target: int) -> Tensor:
    """Return Grad-CAM by the textbook: a hook that keeps the activation, and its gradient."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0].clone()

    handle = network.get_submodule(layer).register_forward_hook(keep)
    score = network(x)[:, target]
    handle.remove()
    return textbook_map(score, kept[0])


@pytest.mark.parametrize("layer", range(3))
def test_every_layer_has_its_own_exact_map(small: Path, layer: int) -> None:
    """Each layer's map, for several images and classes at once, is the textbook's."""
    network = make_small()
    for name, tensor in network.state_dict().items():
        if tensor.dim() >= 2:
            network.get_parameter(name).data = tensor.half().float()
    target = np.tile(np.array([0, 3, 1], dtype=np.int64), (len(IMAGES), 1))
    outputs = run(session(small.read_bytes()), IMAGES, target, np.full_like(target, CLASSES), layer)
    x = (torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255 - torch.tensor(MANIFEST.mean)[:, None, None]) / (
        torch.tensor(MANIFEST.std)[:, None, None]
    )
    for index, class_index in enumerate([0, 3, 1]):
        expected = _hooked_map(network, SMALL_LAYERS[layer], x, class_index).numpy()
        np.testing.assert_allclose(outputs["gradcam"][:, index], expected, atol=1e-5 * max(1e-3, expected.max()))


def test_answers_do_not_depend_on_the_layer(small: Path) -> None:
    """Class, probabilities and explained class are the same for every layer; unknown layers are NaN."""
    runtime = session(small.read_bytes())
    codes = np.array([[-1, 2]], dtype=np.int64)
    answers = [run(runtime, IMAGES[:1], codes, np.full_like(codes, CLASSES), layer) for layer in range(4)]
    for answer in answers[1:]:
        np.testing.assert_array_equal(answers[0]["logits"], answer["logits"])
    assert [answer["gradcam"].shape[2] for answer in answers[:3]] == [5, 20, 20]
    assert [answer["explained"].tolist() for answer in answers[:3]] == [answers[0]["explained"].tolist()] * 3
    assert np.isnan(answers[3]["gradcam"]).all()


def test_earlier_layers_stand_in_branches_and_weights_once(small: Path) -> None:
    """What only an earlier layer needs is inside `If`; no branch holds a weight of its own."""
    model = read(small)
    main, *parts = subgraphs(model.graph)
    assert sum(node.op_type == "If" for node in main.node) == 1
    assert count_operators(model.graph)["If"] == 2
    assert not any(node.op_type == "ConvTranspose" for node in main.node)
    assert not any(part.initializer for part in parts)
    names = [tensor.name for tensor in main.initializer]
    assert len(names) == len(set(names))
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in main.initializer)


def test_the_last_stage_enters_no_branch_that_sees_the_weights(small: Path) -> None:
    """A runtime passes a branch all that it sees, used or not: the usual request enters one that sees one value."""
    (choice,) = (node for node in read(small).graph.node if node.op_type == "If")
    otherwise = next(attribute.g for attribute in choice.attribute if attribute.name == "else_branch")
    assert [(node.op_type, list(node.input)) for node in otherwise.node] == [("Identity", ["layer0/gradcam"])]


def test_only_the_latest_of_the_earlier_maps_is_taken_from_the_main_graph(small: Path) -> None:
    """A map that a branch takes is paid for by every request: the other branch starts at the image."""
    main, *parts = subgraphs(read(small).graph)
    own = {name for node in main.node for name in node.output}
    taken = {
        part.name: {name for node in part.node for name in node.input if name in own | {"image"}} for part in parts
    }
    assert "image" not in taken["layer1"]
    assert "image" in taken["layer2"]
    convolutions = {name for node in main.node if node.op_type in {"Conv", "Relu"} for name in node.output}
    assert taken["layer1"] & convolutions
    assert not taken["layer2"] & convolutions


def test_manifest_names_the_layers_and_cannot_rebuild_the_module(small: Path) -> None:
    """The layers are listed in the order of their index; the network itself stays where it came from."""
    manifest = read_manifest(small)
    assert [(layer.name, layer.grid) for layer in manifest.layers] == [
        ("last", (5, 5)),
        ("block", (20, 20)),
        ("stem", (20, 20)),
    ]
    assert manifest.network == {}
    assert manifest.has_attention is False
    assert manifest.parity["peer.captum"] < 1e-4
    with pytest.raises(ManifestError, match="not built here"):
        load_network(small)


def read_manifest(path: Path):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """Return the manifest inside a file."""
    from model.contract.manifest import Manifest

    return Manifest.from_metadata({entry.key: entry.value for entry in read(path).metadata_props})


class _Around(nn.Module):
    """A connection bypasses `middle`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.middle = nn.Conv2d(4, 4, 3, padding=1)
        self.unused = nn.Conv2d(4, 4, 1)
        self.vector = nn.Linear(4, 4)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, K)."""
        x = self.stem(x)
        x = self.middle(x) + x
        logits: Tensor = self.fc(self.vector(self.vector(x.mean((2, 3)))))
        return logits


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("midle", "there is no layer 'midle'; near it are middle"),
        ("middle", "'middle' cannot be explained: .* goes around it"),
        ("unused", "'unused' did not run"),
        ("vector", r"'vector' returns \(2, 4\), not a feature map"),
    ],
)
def test_layers_that_cannot_be_explained_are_named(layer: str, message: str) -> None:
    """A typo, a layer that is bypassed, one that does not run, one without a map."""
    with pytest.raises(LayerError, match=message):
        check_separates(ExplainableModule(_Around().eval(), (layer,)), 16)


def test_a_module_that_cannot_run_raises_its_own_error() -> None:
    """Its own error is not taken for a bypassed layer."""
    network = make_small()
    network.fc = nn.Linear(3, CLASSES)
    with pytest.raises(RuntimeError, match="3"):
        check_separates(ExplainableModule(network, SMALL_LAYERS), 40)


def test_layers_that_run_twice_are_refused() -> None:
    """The gradient by a shared module is not that of one of its calls."""

    class Twice(SmallNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + super().forward(x)

    with pytest.raises(LayerError, match="'last' runs more than once"):
        check_separates(ExplainableModule(Twice().eval(), ("last",)), 40)


def test_a_layer_must_be_named_and_labels_must_fit(tmp_path: Path) -> None:
    """A foreign module says neither what to explain nor how many classes it has."""
    with pytest.raises(ExportError, match="name the layer"):
        export(make_small(), MANIFEST, tmp_path / "x.onnx", images=IMAGES)
    with pytest.raises(ExportError, match=r"5 labels for logits of the shape \(N, 7\)"):
        export(make_small(num_classes=7), MANIFEST, tmp_path / "x.onnx", images=IMAGES, layer="last")
    assert not list(tmp_path.iterdir())


class _Applied(nn.Module):
    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(x)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda x: x + torch.special.bessel_j0(x), r"aten\.special_bessel_j0 of pool has no ONNX form"),
        (lambda x: x if float(x.sum()) > 0 else -x, r"pool cannot be traced"),
        (lambda x: x + CALLS.add_(1), r"modifies one of its own tensors .* 'aten\.add_\.Tensor'"),
        (lambda x: x * int(x.shape[0]), r"the axes N were frozen in the trace"),
    ],
)
def test_what_cannot_be_exported_is_named_with_its_module(
    tmp_path: Path, operation: Callable[[Tensor], Tensor], message: str
) -> None:
    """An operator without ONNX form, control flow that depends on the data, a tensor that a pass modifies."""
    network = make_small()
    network.pool = _Applied(operation)  # type: ignore[assignment]
    with pytest.raises(GraphError, match=message):
        export(network, MANIFEST, tmp_path / "x.onnx", images=IMAGES, layer="last")
    assert not list(tmp_path.iterdir())


def _changed_in_part(x: Tensor) -> Tensor:
    """Add to some channels in place, through a view of them."""
    changed = x.clone()
    changed[:, 1:3].add_(0.5)
    return changed


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.clone().add_(0.5).mul_(2),
        _changed_in_part,
        lambda x: x / (1 + x.var(1, keepdim=True)),
        lambda x: nn.functional.pad(x, (0, 1, 0, 1)),
    ],
    ids=["in-place", "in-place-view", "decomposed-for-onnx", "padded-on-one-side"],
)
def test_a_network_is_traced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: Callable[[Tensor], Tensor]
) -> None:
    """Exact and for any number of images, without torch's own, longer trace.

    A view that is written to, an operator that the exporter splits, the padding of EfficientNets from TensorFlow.
    """
    traces: list[object] = []
    monkeypatch.setattr(torch.export, "export", lambda *args, **options: traces.append(args))
    network = make_small()
    network.pool = _Applied(operation)  # type: ignore[assignment]
    report = export(network, MANIFEST, tmp_path / "x.onnx", images=IMAGES[:2], layer=SMALL_LAYERS[:2])
    assert report.passed
    assert traces == []


@pytest.mark.slow
def test_a_network_of_timm_becomes_one_file(tmp_path: Path) -> None:
    """One that torchvision does not have: three convolutions as a stem, shortcuts that average before they project."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", pretrained=False, num_classes=CLASSES).eval()
    report = export(network, MANIFEST, tmp_path / "timm.onnx", images=IMAGES[:2], layer=("layer4", "layer2"))
    assert report.passed
    assert set(report.errors) == {"logits", "ranks", "probabilities", "gradcam.layer4", "gradcam.layer2"}
    manifest = read_manifest(tmp_path / "timm.onnx")
    assert [(layer.name, layer.channels, layer.grid) for layer in manifest.layers] == [
        ("layer4", 512, (2, 2)),
        ("layer2", 128, (5, 5)),
    ]
