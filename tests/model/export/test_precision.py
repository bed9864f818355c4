"""Smaller precisions: what they keep in float32, and the quality limits that they must keep."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from torch import nn

from model.contract.geometry import Resize
from model.contract.graph import codes_of_best
from model.contract.manifest import Manifest, ManifestError, synthetic_images
from model.export.export import ExportError, load_network, read
from model.export.graphs import initializers
from model.export.precision import export_variant
from model.export.quality_limits import HeldOut, QualityError, check, measure
from model.export.running import run, session
from model.network.network import Network
from tests.model.networks import CLASSES, SIZE, Exported, make_manifest, make_marked, make_small

FIGURES = {"images": 100.0, "top1_drop": 0.0, "spearman": 1.0}
SMALL = make_manifest(resize=Resize(size=40, crop=40))


def _held_out(size: int) -> HeldOut:
    """Return images that no network names rightly, for these tests are about maps: K is no class."""
    images = np.concatenate([synthetic_images(seed, 4, size) for seed in range(10, 16)])
    return HeldOut(images, np.full(len(images), CLASSES, dtype=np.int64))


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    """Return images of the size of `tiny`."""
    return _held_out(SIZE)


def _manifest(path: Path) -> Manifest:
    return Manifest.from_metadata({entry.key: entry.value for entry in read(path).metadata_props})


def test_fp16_keeps_head_and_sums_in_float(marked: Exported, held_out: HeldOut, tmp_path: Path) -> None:
    """Inputs and outputs are float32, the backbone is float16, every layer is there, and the limits are kept."""
    (_, given, fitted), path, full = make_marked(), tmp_path / "half.fp16.onnx", tmp_path / "half.onnx"
    full.write_bytes(marked.path.read_bytes())
    figures = export_variant(
        marked.network, given, path, "fp16", held_out=held_out, calibration=held_out.images[:4], fitted=fitted
    )
    assert figures["top1_drop"] <= 0.1
    assert figures["spearman"] >= 0.999
    assert 0 < figures["marks_change"] < 0.002
    assert 0.999 < figures["embedding_cosine"] < 1
    assert 0.999 <= figures["novelty_spearman"]
    manifest, stored = _manifest(path), initializers(read(path))
    assert (manifest.precision, manifest.weights_dtype, len(manifest.layers)) == ("fp16", "fp16", 4)
    assert manifest.metrics["gate.spearman"] == figures["spearman"]
    assert stored["backbone.features.0.weight"].data_type == 10
    assert {1} == {stored[name].data_type for name in ("head.5.weight", "mark_head.reader.weight", "marks.table")}
    runtime = session(path.read_bytes())
    assert {value.type for value in runtime.get_outputs()} == {"tensor(float)", "tensor(int64)"}
    assert manifest.outputs == [value.name for value in runtime.get_outputs()]
    assert isinstance(load_network(path)[0], Network)
    assert manifest.variant_of == hashlib.sha256(full.read_bytes()).hexdigest()


def test_a_variant_is_not_written_beside_another_model(tiny: Exported, tmp_path: Path) -> None:
    """`NAME.fp16.onnx` would be served with NAME.onnx."""
    (tmp_path / "bird.onnx").write_bytes(tiny.path.read_bytes())
    given, held_out = SMALL.model_copy(update={"name": "another"}), _held_out(40)
    path, calibration = tmp_path / "bird.fp16.onnx", held_out.images[:4]
    with pytest.raises(ExportError, match="differs from the fp32 file in name"):
        export_variant(make_small(), given, path, "fp16", held_out=held_out, calibration=calibration, layer="last")
    assert not path.exists()


def _steps(path: Path) -> list[str]:
    """Return the operators from the image to the first convolution."""
    steps, value = [], "image"
    while not steps or steps[-1] != "Conv":
        node = next(node for node in read(path).graph.node if value in node.input and node.op_type != "Shape")
        steps.append(node.op_type)
        value = node.output[0]
    return steps


def test_int8_quantises_the_convolutions_alone(tmp_path: Path) -> None:
    """All have int8 weights, and the first reads bytes; what is behind them is float; the batch is still free."""
    path, held_out = tmp_path / "alone.int8.onnx", _held_out(40)
    figures = export_variant(
        make_small(), SMALL, path, "int8", held_out=held_out, calibration=held_out.images, layer="last"
    )
    assert figures["spearman"] >= 0.98
    manifest, stored = _manifest(path), initializers(read(path))
    assert (manifest.precision, manifest.weights_dtype, len(manifest.layers)) == ("int8", "int8", 1)
    assert sum(tensor.data_type == 3 and len(tensor.dims) == 4 for tensor in stored.values()) == 4
    assert manifest.operators["QuantizeLinear"] > 0
    assert _steps(path) == ["Reshape", "Concat", "Concat", "Transpose", "DequantizeLinear", "Conv"]
    codes = np.full((len(held_out.images), 1), -1, dtype=np.int64)
    outputs = run(session(path.read_bytes()), held_out.images, codes, np.full_like(codes, CLASSES))
    assert outputs["gradcam"].shape == (len(held_out.images), 1, 5, 5)
    with pytest.raises(ManifestError, match="holds rounded weights"):
        load_network(path)


def test_int8_reads_marks_and_embedding_in_float(marked: Exported, held_out: HeldOut, tmp_path: Path) -> None:
    """They keep their limits, and only the backbone's convolutions behind the first are quantised."""
    (_, given, fitted), path = make_marked(), tmp_path / "int8.onnx"
    figures = export_variant(
        marked.network, given, path, "int8", held_out=held_out, calibration=held_out.images, fitted=fitted
    )
    assert 0 < figures["marks_change"] < 0.01
    assert 0.99 < figures["embedding_cosine"] < 1
    assert 0.98 <= figures["novelty_spearman"] < 1
    stored, runtime = initializers(read(path)), session(path.read_bytes())
    quantised = sum(tensor.data_type == 3 and len(tensor.dims) == 4 for tensor in stored.values())
    assert sum(isinstance(module, nn.Conv2d) for module in marked.network.backbone.modules()) == quantised + 1
    assert _manifest(path).outputs == [value.name for value in runtime.get_outputs()]
    outputs = run(runtime, held_out.images[:2], *codes_of_best(2, CLASSES), mark=np.full((2, 1), 4))
    assert outputs["marked"].tolist() == [[4], [4]]
    np.testing.assert_allclose(outputs["mark_maps"].sum((2, 3)), 1, atol=1e-5)


def test_a_graph_equals_itself(tiny: Exported, held_out: HeldOut) -> None:
    """The measure's own zero: nothing is lost between a graph and itself."""
    content = tiny.path.read_bytes()
    figures = measure(content, content, held_out)
    assert figures["top1_drop"] == 0
    assert figures["same_class"] == 100
    assert figures["spearman"] == pytest.approx(1)
    assert figures["zero_maps"] == figures["zero_maps_fp32"]


def test_a_lost_map_counts(tiny: Exported, held_out: HeldOut) -> None:
    """A variant whose maps are all zero where fp32's are not has no correlation with it."""
    model = read(tiny.path)
    (made,) = (node for node in model.graph.node if "gradcam" in node.output)
    made.output[list(made.output).index("gradcam")] = "found"
    nothing = onnx.numpy_helper.from_array(np.float32(0), "nothing")
    model.graph.initializer.append(nothing)
    model.graph.node.append(onnx.helper.make_node("Mul", ["found", "nothing"], ["gradcam"]))
    figures = measure(tiny.path.read_bytes(), model.SerializeToString(), held_out)
    assert figures["zero_maps"] == len(held_out.images) > figures["zero_maps_fp32"]
    assert (0, 0, 0) == tuple(figures[name] for name in ("spearman", "spearman_median", "contrast_median"))


@pytest.mark.parametrize(
    ("precision", "figures", "broken"),
    [
        ("fp16", {"top1_drop": 0.1, "spearman": 0.999, "marks_change": 0.002}, ""),
        ("fp16", {"top1_drop": 0.2}, "top-1 drop in points 0.2 (at most 0.1)"),
        ("fp16", {"marks_change": float("nan")}, "change of marks nan (at most 0.002)"),
        ("fp16", {"novelty_spearman": 1.0, "novelty_shift": 1.1}, "shift of unlike photos in points 1.1 (at most 1)"),
        ("int8", {"top1_drop": -1.0, "same_class": 98.5, "novelty_shift": 3.0, "mark_peaks": 90.0}, ""),
        ("int8", {"same_class": 98.4}, "same class in percent 98.4 (at least 98.5)"),
        ("int8", {"spearman": float("nan")}, "rank correlation of map cells nan (at least 0.98)"),
        ("int8", {"spearman_median": 0.98}, "median rank correlation of maps 0.98 (at least 0.99)"),
        ("int8", {"contrast_median": 0.97}, "median rank correlation of contrast maps 0.97 (at least 0.98)"),
        ("int8", {"mark_peaks": 89.0}, "peaks of mark maps in place, in percent 89 (at least 90)"),
        ("int8", {"embedding_cosine": 0.98}, "cosine of embeddings 0.98 (at least 0.99)"),
        ("int8", {"novelty_spearman": 0.97}, "rank correlation of novelty 0.97 (at least 0.98)"),
    ],
)
def test_limits_are_the_projects(precision: str, figures: dict[str, float], broken: str) -> None:
    """Answers, maps, marks, vectors and novelty have limits of their own; the error names those that are broken."""
    if not broken:
        check(FIGURES | figures, precision)
    else:
        with pytest.raises(QualityError) as caught:
            check(FIGURES | figures | {"trained_on": 1.0}, precision)
        words = f"{precision} loses too much on 100 photos that were trained on; nothing was written: {broken}"
        assert words == str(caught.value)


def test_held_out_images_need_labels(tmp_path: Path) -> None:
    """Held-out images without as many labels are refused."""
    held_out = _held_out(40)
    with pytest.raises(ExportError, match="1 labels for 24 held-out images"):
        export_variant(
            make_small(),
            SMALL,
            tmp_path / "x.onnx",
            "int8",
            held_out=HeldOut(held_out.images, held_out.labels[:1]),
            calibration=held_out.images,
            layer="last",
        )


def test_a_variant_beyond_its_limits_is_not_written(tmp_path: Path) -> None:
    """Calibrated on black images every range is wrong: it is refused, and no file appears."""
    held_out = _held_out(40)
    black = np.zeros_like(held_out.images[:2])
    with pytest.raises(QualityError):
        export_variant(
            make_small(), SMALL, tmp_path / "x.onnx", "int8", held_out=held_out, calibration=black, layer="last"
        )
    assert not list(tmp_path.iterdir())
