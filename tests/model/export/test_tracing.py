"""The graph as it is written: a runtime that checks it has nothing to say."""

from pathlib import Path

import numpy as np
import pytest
from onnx import GraphProto, TensorProto, helper, numpy_helper

from model.contract.geometry import Resize
from model.contract.manifest import synthetic_images
from model.export.export import export
from model.export.graphs import drop_unused_initializers
from model.export.precision import export_variant
from model.export.quality_limits import HeldOut
from tests.model.networks import CLASSES, SMALL_LAYERS, Exported, make_manifest, make_small, open_as_users_do

SIZE = 40
SMALL = make_manifest(resize=Resize(size=SIZE, crop=SIZE))


def test_a_fresh_file_loads_without_warnings(tiny: Exported, capfd: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime warns of stored tensors that nothing reads; a file with all its layers has none."""
    open_as_users_do(tiny.path)
    assert ("", "") == capfd.readouterr()


def test_the_bundled_file_loads_without_warnings(capfd: pytest.CaptureFixture[str]) -> None:
    """It was exported like any other."""
    open_as_users_do(Path("service/bundled/cub50/2.onnx"))
    assert ("", "") == capfd.readouterr()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_foreign_file_in_every_precision_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], precision: str
) -> None:
    """What the quantiser leaves behind goes as well."""
    path, images = tmp_path / "small.onnx", np.concatenate([synthetic_images(seed, 4, SIZE) for seed in range(6)])
    if precision == "fp32":
        export(make_small(), SMALL, path, images=images, layer=SMALL_LAYERS)
    else:
        held_out = HeldOut(images, np.full(len(images), CLASSES, dtype=np.int64))
        export_variant(make_small(), SMALL, path, precision, held_out=held_out, calibration=images, layer="last")  # type: ignore[arg-type]
    capfd.readouterr()
    open_as_users_do(path)
    assert ("", "") == capfd.readouterr()


def test_what_only_a_branch_or_an_output_reads_stays() -> None:
    """Subgraphs see the tensors around them, and an output may be a stored tensor."""
    value = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1])

    def branch(name: str, reads: str) -> GraphProto:
        own = numpy_helper.from_array(np.ones(1, np.float32), f"unused in {name}")
        made = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
        return helper.make_graph([helper.make_node("Identity", [reads], [name])], name, [], [made], [own])

    stored = [numpy_helper.from_array(np.ones(1, np.float32), name) for name in ("seen", "kept", "unused")]
    node = helper.make_node("If", ["asked"], ["out"], then_branch=branch("a", "seen"), else_branch=branch("b", "seen"))
    kept = helper.make_tensor_value_info("kept", TensorProto.FLOAT, [1])
    asked = helper.make_tensor_value_info("asked", TensorProto.BOOL, [])
    model = helper.make_model(helper.make_graph([node], "g", [asked], [value, kept], stored))
    drop_unused_initializers(model)
    assert ["seen", "kept"] == [tensor.name for tensor in model.graph.initializer]
    assert [0, 0] == [len(attribute.g.initializer) for attribute in model.graph.node[0].attribute]
