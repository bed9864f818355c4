"""`fieldmark inspect`: the manifest, or the reason of a refusal."""

import json
from pathlib import Path

import pytest

from model.contract.manifest import Individual, Manifest
from service.cli import main
from tests.service.tiny_model import marked_manifest, tiny_manifest, tiny_model, tiny_self_check


def test_inspect_as_json_is_the_manifest(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything the manifest holds, with the file's size and hash."""
    assert main(["inspect", model, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert Path(model).stat().st_size == facts.pop("bytes")
    assert 64 == len(facts.pop("sha256"))
    assert model == facts.pop("file")
    assert tiny_manifest(self_check=tiny_self_check()) == Manifest.model_validate(facts)


def test_inspect_of_int8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rounded weights say nothing of the network, which may be this project's."""
    path = tmp_path / "tiny.int8.onnx"
    path.write_bytes(tiny_model(tiny_manifest(precision="int8", network={})))
    assert main(["inspect", str(path)]) == 0
    assert "network      not kept in int8, attention: " in capsys.readouterr().out


def test_inspect_is_readable(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The output names classes, input, layers and precision."""
    assert main(["inspect", model]) == 0
    text = capsys.readouterr().out
    for fact in ("4: Red bird", "RGB 8×8", "0: pixels, 3 channels, 8×8", "fp32"):
        assert fact in text


def test_inspect_shows_what_a_model_can(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Marks, embedding, novelty and the centres of cells, each only where there is one."""
    assert main(["inspect", model]) == 0
    lines = {name: rest for name, _, rest in (line.partition(" ") for line in capsys.readouterr().out.splitlines())}
    assert ["none"] * 3 == [lines[name].strip() for name in ("marks", "embedding", "novelty")]
    assert "cells centred" not in lines["layers"]
    assert "of several photos the geometric mean" in lines["individual"]
    layer = tiny_manifest().layers[0].model_copy(update={"centres": (0.0, 0.5, 1.0, 2.0)})
    path = tmp_path / "2.onnx"
    gate = {"gate.same_class": 99.25, "gate.spearman_median": 0.9938, "gate.images": 400.0, "gate.trained_on": 1.0}
    changes = {
        "layers": (layer,),
        "placed_by_centres": True,
        "individual": Individual(dependence=0.3, num_photos=90),
        "metrics": gate,
    }
    path.write_bytes(tiny_model(marked_manifest().model_copy(update=changes)))
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    for fact in (
        "8×8, cells centred on pixel 0 + 1·column, 0.5 + 2·row",
        "maps drawn by the centres of cells",
        "names fp32's class on 99.2% of 400 photos that it was trained on; median rank correlation of maps 0.994",
        "5 of 4 parts, weights on 8×8: red crown, green throat, blue wing, red wing, …",
        "3 numbers",
        "of n photos each counts n^-0.3, fitted to 90 photos",
        "brightness, unlike all classes above 0.9, 10 photos",
    ):
        assert fact in text


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (tiny_manifest(self_check=tiny_self_check(offset=1.0)), "the self-check is off by 1"),
        (tiny_manifest(layers=tiny_manifest().layers * 2), "the graph has only 1"),
    ],
)
def test_inspect_refuses_what_the_service_would(
    manifest: Manifest, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that loads, but does not compute as its manifest states, is refused."""
    path = tmp_path / "1.onnx"
    path.write_bytes(tiny_model(manifest))
    assert main(["inspect", str(path)]) == 1
    assert reason in capsys.readouterr().err
