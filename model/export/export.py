"""Network → one ONNX file with the gradient inside, and back: the file is enough to build the network again."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch
import torchvision
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from model.contract.graph import codes_of_best
from model.contract.manifest import SCHEMA_VERSION, Layer, Manifest, ManifestError, SelfCheck, synthetic_images
from model.contract.manifest import Embedding as EmbeddingFacts
from model.contract.placing import regular_centres
from model.explain.embedding import Embedding, PrincipalAxes
from model.explain.explainer import ExplainableClassifier, ExplainableNetwork, Explainer
from model.explain.fitted import NOTHING, Fitted
from model.explain.foreign import ExplainableModule, check_separates
from model.explain.marks import MarkCalibration, MarkReader
from model.explain.novelty import NoveltyFit, NoveltyScore
from model.export.graphs import count_operators, initializers, subgraphs
from model.export.parity import ParityReport, check_parity
from model.export.peers import compare_with_peers
from model.export.running import run, session
from model.export.tracing import trace
from model.files import write_whole
from model.network.centres import cell_centres
from model.network.network import Network, NetworkConfig, build_network

WeightsDtype = Literal["fp32", "fp16"]
SELF_CHECK_SEED, SELF_CHECK_IMAGES = 1, 2
SELF_CHECK_TOLERANCE = 0.02
"""Of the largest logit: above what providers differ by (TF32 included), far below what other weights give."""
STORED_SUFFIX = ".fp32"
TRAINING_ONLY = ("mark_head.local.", "mark_head.local_reader.")
"""Beginnings of the names of weights that no answer depends on: a file does not hold them."""
TABLE, SCALE, SHIFT = "marks.table", "marks.scale", "marks.shift"
MEAN, AXES = "embedding.mean", "embedding.axes"
NEAR, FACTOR, OFFSET = "novelty.means", "novelty.scale", "novelty.offset"
"""Names of the tensors that a file holds beside the network's."""


class ExportError(ValueError):
    """Network, manifest and images do not fit together; nothing was written."""


def export(
    network: nn.Module,
    manifest: Manifest,
    path: Path,
    *,
    images: npt.NDArray[np.uint8],
    layer: str | Sequence[str] = (),
    weights_dtype: WeightsDtype = "fp16",
    peers: bool = False,
    fitted: Fitted = NOTHING,
) -> ParityReport:
    """Write a network as one self-describing ONNX file, if it computes what the network computes.

    Args:
        network: trained; is not changed. A `Network` of this project, or any module that takes normalised
            images, (N, 3, S, S), and returns logits, (N, K).
        manifest: what the exporter cannot know: name, labels, geometry, normalisation, temperature,
            provenance, metrics, and the marks of a network that reads some. Layers, operators, parity and the like
            are replaced by the measured ones.
        path: of the file; an old one is replaced, at once or not at all.
        images: real ones for the parity check, prepared as the manifest says, RGB, uint8, (n, S, S, 3).
        layer: of a module that was not built here: path of the module whose output is explained, or several,
            the last stage first.
        weights_dtype: of the stored weights; fp16 halves the file, computes in float32, and is compared with
            torch on the same rounded weights.
        peers: compare with captum, torchcam and pytorch-grad-cam too, as far as they are installed.
        fitted: calibration of the marks, the axes of the embedding, and what a score of novelty is made of.

    Raises:
        ExportError: network, manifest and images do not fit together.
        LayerError: a layer of a foreign module cannot be explained.
        GraphError: an operation has no ONNX form.
        ParityError: the graph disagrees with torch; nothing was written.
    """
    check_images(images, manifest)
    explainer = explainer_of(network, manifest, layer, weights_dtype, fitted)
    model = trace(explainer, manifest.input_size)
    if weights_dtype == "fp16":
        store_as_fp16(model, {*network.state_dict(), TABLE, AXES, NEAR})
    runtime = session(model.SerializeToString())
    report = check_parity(runtime, explainer, images)
    if peers:
        report = replace(report, peers=compare_with_peers(runtime, explainer, images))
    facts = {**architecture(network), "precision": "fp32", "weights_dtype": weights_dtype}
    write(model, complete(manifest, model, explainer, report, facts, runtime), path)
    return report


def explainer_of(
    network: nn.Module,
    manifest: Manifest,
    layer: str | Sequence[str] = (),
    weights_dtype: WeightsDtype = "fp32",
    fitted: Fitted = NOTHING,
) -> Explainer:
    """Return the torch side of an export: the network frozen, rounded as it will be stored, and its maps.

    Raises:
        ExportError: labels and logits, or marks, differ in number, or a layer is named for a network of this project.
        LayerError: a layer of a foreign module cannot be explained.
    """
    layers = (layer,) if isinstance(layer, str) else tuple(layer)
    frozen = freeze(network, weights_dtype)
    classifier: ExplainableClassifier
    if isinstance(frozen, Network):
        if layers:
            raise ExportError("the layers of this network are its stages; none can be named")
        classifier = ExplainableNetwork(frozen)
    elif not layers:
        raise ExportError("name the layer whose output is to be explained")
    else:
        classifier = ExplainableModule(frozen, layers)
        check_separates(classifier, manifest.input_size)
    with torch.no_grad():
        logits = classifier(torch.zeros(2, 3, manifest.input_size, manifest.input_size)).logits
    if logits.shape != (2, manifest.num_classes):
        raise ExportError(
            f"{manifest.num_classes} labels for logits of the shape (N, {', '.join(map(str, logits.shape[1:]))})"
        )
    if (fitted.embedding or fitted.novelty) and not isinstance(frozen, Network):
        raise ExportError("only a network of this project has an embedding, or novelty")
    embedding = novelty = None
    if fitted.embedding is not None:
        embedding = Embedding(fitted.embedding._replace(axes=_stored(fitted.embedding.axes, weights_dtype)))
    if fitted.novelty is not None:
        if embedding is None:
            raise ExportError("novelty needs an embedding")
        novelty = NoveltyScore(fitted.novelty._replace(means=_stored(fitted.novelty.means, weights_dtype)))
    return Explainer(classifier, manifest, _mark_reader(frozen, manifest, fitted), embedding, novelty)


def _stored(matrix: torch.Tensor, weights_dtype: WeightsDtype) -> torch.Tensor:
    """Return a matrix rounded as it will be stored."""
    return matrix.half().float() if weights_dtype == "fp16" else matrix


def _mark_reader(network: nn.Module, manifest: Manifest, fitted: Fitted) -> MarkReader | None:
    """Return what reads the network's marks, if the manifest lists as many."""
    head = network.mark_head if isinstance(network, Network) else None
    read, listed = 0 if head is None else len(head.part_of), 0 if manifest.marks is None else manifest.marks.num_marks
    if read != listed:
        raise ExportError(f"the manifest lists {listed} marks for a network that reads {read}")
    if head is None or manifest.marks is None:
        return None
    return MarkReader(head, manifest.marks, manifest.num_classes, fitted.marks)


def architecture(network: nn.Module) -> dict[str, object]:
    """Return the manifest's fields about how a network is built."""
    if isinstance(network, Network):
        return {"network": network.config.to_dict(), "attention": network.config.attention}
    return {"network": {}, "attention": "none"}


def load_network(path: Path) -> tuple[Network, Manifest]:
    """Build the network of an exported file again, with the weights it holds.

    Raises:
        ManifestError: the file has no valid manifest, or holds a module that was not built here.
        ExportError: a weight is missing.
    """
    model = read(path)
    manifest = Manifest.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    if not manifest.network:
        what = "a module that was not built here" if manifest.precision != "int8" else "rounded weights"
        raise ManifestError(f"{path.name} holds {what}: only its graph can be used")
    network = build_network(NetworkConfig.from_dict(manifest.network)).eval()
    stored = initializers(model)
    state = {}
    for name, tensor in network.state_dict().items():
        if name in stored:
            state[name] = torch.from_numpy(numpy_helper.to_array(stored[name]).copy()).to(tensor.dtype)
        elif name.endswith("num_batches_tracked") or name.startswith(TRAINING_ONLY):
            state[name] = tensor
        else:
            raise ExportError(f"{path.name} holds no weights named {name}")
    network.load_state_dict(state)
    return network, manifest


def load_fitted(path: Path) -> Fitted:
    """Return what was fitted beside the network of an exported file.

    Raises:
        ManifestError: the file has no valid manifest.
    """
    model = read(path)
    manifest = Manifest.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    stored = initializers(model)

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(numpy_helper.to_array(stored[name]).astype(np.float32))

    return Fitted(
        MarkCalibration(tensor(SCALE), tensor(SHIFT)) if manifest.marks else None,
        PrincipalAxes(tensor(MEAN), tensor(AXES), manifest.embedding.num_photos) if manifest.embedding else None,
        NoveltyFit(tensor(NEAR), tensor(FACTOR), tensor(OFFSET), manifest.novelty) if manifest.novelty else None,
    )


def read(path: Path) -> ModelProto:
    """Read an ONNX file.

    Raises:
        ManifestError: it is not one.
    """
    try:
        return onnx.load(str(path), load_external_data=False)
    except OSError:
        raise
    except Exception as error:  # protobuf's own errors
        raise ManifestError(f"{path.name} is not an ONNX file: {error}") from error


def write(model: ModelProto, manifest: Manifest, path: Path) -> None:
    """Put the manifest into a checked graph and write it: whole, or not at all."""
    helper.set_model_props(model, manifest.to_metadata())
    model.producer_name, model.producer_version = "fieldmark", ""
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, model.SerializeToString())


def freeze(network: nn.Module, weights_dtype: WeightsDtype) -> nn.Module:
    """Return a copy for tracing: on the CPU, in evaluation mode, without gradients, rounded as it will be stored."""
    frozen = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
    for module in frozen.modules():
        if hasattr(module, "inplace"):
            # The variable of differentiation would be overwritten.
            module.inplace = False  # type: ignore[assignment]
    if weights_dtype == "fp16":
        for name, parameter in frozen.state_dict().items():
            # Matrices and filters; vectors (statistics, biases) are small and stay as they are.
            if parameter.is_floating_point() and parameter.dim() >= 2:
                parameter.copy_(parameter.half())
                if not bool(parameter.isfinite().all()):
                    raise ExportError(f"{name} is out of the range of fp16; store the weights as fp32")
    return frozen


def store_as_fp16(model: ModelProto, names: set[str]) -> None:
    """Store the named weights as fp16, each behind a Cast that a runtime folds away when it loads the file."""
    casts, renamed = [], {}
    for tensor in model.graph.initializer:
        if tensor.name in names and tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2:
            half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            tensor.CopyFrom(half)
            renamed[tensor.name] = tensor.name + STORED_SUFFIX
            casts.append(helper.make_node("Cast", [tensor.name], [renamed[tensor.name]], to=TensorProto.FLOAT))
    for part in subgraphs(model.graph):
        for node in part.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def complete(
    manifest: Manifest,
    model: ModelProto,
    explainer: Explainer,
    report: ParityReport,
    facts: Mapping[str, object],
    runtime: InferenceSession,
) -> Manifest:
    """Return the manifest with the facts that only the exporter knows; `runtime` is a session of the model."""
    provenance = manifest.provenance.model_copy(
        update={
            "created": datetime.now(UTC).date().isoformat(),
            "tools": {"torch": torch.__version__, "torchvision": torchvision.__version__, "onnx": onnx.__version__},
        }
    )
    embedding, reader = explainer.embedding, explainer.marks
    found = {
        "schema_version": SCHEMA_VERSION,
        "embedding": embedding and EmbeddingFacts(size=len(embedding.axes), num_photos=embedding.num_photos),
        "novelty": explainer.novelty and explainer.novelty.facts,
        "marks": manifest.marks and reader and manifest.marks.model_copy(update={"grid": reader.grid}),
        "has_attention": explainer.classifier.has_attention,
        "layers": _layers(explainer, manifest.input_size),
        "operators": count_operators(model.graph),
        "provenance": provenance,
        "parity": report.to_metrics(),
        "self_check": _self_check(runtime, manifest),
        **facts,
    }
    return Manifest.model_validate(manifest.model_copy(update=found).model_dump())


def check_images(images: npt.NDArray[np.uint8], manifest: Manifest) -> None:
    """Raise unless there are images of the manifest's size."""
    size = manifest.input_size
    if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3) or not len(images):
        raise ExportError(f"the images must be uint8, (n ≥ 1, {size}, {size}, 3), not {images.dtype} {images.shape}")


def _layers(explainer: Explainer, size: int) -> tuple[Layer, ...]:
    classifier: ExplainableClassifier = copy.deepcopy(
        explainer.classifier
    ).float()  # torch has not every float16 kernel on the CPU
    with torch.no_grad():
        maps = classifier(torch.zeros(1, 3, size, size)).maps
    try:
        centres = cell_centres(lambda x: classifier(x).maps, size)
    except (DataDependentOutputException, DynamicOutputShapeException):  # what it does depends on the image
        centres = (None,) * len(maps)
    last, *earlier = (
        Layer(name=name, channels=a.shape[1], grid=(a.shape[2], a.shape[3]), centres=centre)
        for name, a, centre in zip(explainer.classifier.layers, maps, centres, strict=True)
    )
    if side := classifier.regular_grid:
        last = last.model_copy(update={"grid": (side, side), "centres": regular_centres(side, size)})
    return last, *earlier


def _self_check(runtime: InferenceSession, manifest: Manifest) -> SelfCheck:
    images = synthetic_images(SELF_CHECK_SEED, SELF_CHECK_IMAGES, manifest.input_size)
    codes = codes_of_best(len(images), manifest.num_classes)
    logits = run(runtime, images, *codes)["logits"].astype(np.float64)
    tolerance = SELF_CHECK_TOLERANCE * max(1.0, float(np.abs(logits).max()))
    rows = tuple(tuple(round(value, 5) for value in row) for row in logits.tolist())
    return SelfCheck(seed=SELF_CHECK_SEED, logits=rows, tolerance=tolerance)
