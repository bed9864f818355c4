"""The graph contract: what the exporter writes is what everybody else asks for."""

import numpy as np
import onnx
import pytest

from model.contract.graph import BEST, INPUTS, OUTPUTS, codes_of_best, feeds, no_mark, softmax
from model.contract.marks import write_table
from model.export.export import load_network, read
from tests.model.networks import CLASSES, SIZE, Exported, make_manifest


def test_an_exported_file_has_the_contracts_inputs_and_outputs(tiny: Exported) -> None:
    """Names, order, types and free axes are those of the one definition."""
    graph = read(tiny.path).graph

    def described(values: list[onnx.ValueInfoProto]) -> dict[str, tuple[str, str]]:
        tensors = {value.name: value.type.tensor_type for value in values}
        return {
            name: (
                str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)),
                "".join(dim.dim_param for dim in tensor.shape.dim if dim.dim_param in ("N", "T")),
            )
            for name, tensor in tensors.items()
        }

    manifest = load_network(tiny.path)[1]
    assert [(name, INPUTS[name]) for name in manifest.inputs] == list(described(list(graph.input)).items())
    assert [(name, OUTPUTS[name]) for name in manifest.outputs] == list(described(list(graph.output)).items())


def test_a_model_without_a_spatial_map_has_no_attention() -> None:
    """The other outputs keep their order."""
    first, last = ["logits", "probabilities"], ["gradcam", "explained"]
    assert [*first, "attention", *last] == make_manifest(has_attention=True).outputs
    assert first + last == make_manifest().outputs


def test_a_model_has_what_its_manifest_says() -> None:
    """With everything there is, inputs and outputs are the whole contract, in its order."""
    table = write_table(np.zeros((CLASSES, 2)))
    marks = {"marks": [{"name": name, "part": "bill"} for name in ("red bill", "blue bill")], "table": table}
    manifest = make_manifest(
        has_attention=True,
        embedding={"size": 16},
        novelty={"method": "distance", "threshold": 1.0, "quantiles": (0.0, 2.0), "num_photos": 9},
        marks={**marks, "grid": (4, 4)},
    )
    assert (list(INPUTS), list(OUTPUTS)) == (manifest.inputs, manifest.outputs)
    assert "mark" not in make_manifest().inputs


def test_the_codes_of_the_best_class_are_answered_with_it(tiny: Exported) -> None:
    """`explained` names the class with the largest logit, of every image."""
    images = tiny.images
    target, versus = codes_of_best(len(images), CLASSES)
    assert target.tolist() == [[BEST]] * len(images)
    logits, explained = tiny.runtime.run(["logits", "explained"], feeds(images, target, versus))
    assert explained[:, 0].tolist() == logits.argmax(1).tolist()


def test_feeds_have_the_contracts_types() -> None:
    """A layer given as a plain number becomes an int64 scalar."""
    images = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    given = feeds(images, *codes_of_best(2, CLASSES), layer=1, mark=np.full((2, 8), no_mark(3)))
    assert {name: str(value.dtype) for name, value in given.items()} == {n: v.dtype for n, v in INPUTS.items()}
    assert given["layer"].shape == ()
    assert "mark" not in feeds(images, *codes_of_best(2, CLASSES))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_is_positive(temperature: float) -> None:
    """Any other temperature is refused."""
    with pytest.raises(ValueError, match="positive"):
        softmax(np.zeros((1, 2)), temperature)
