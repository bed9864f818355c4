"""Evaluation: a run exported to a file and back, and data sets of other kinds."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.contract.geometry import Resize
from tests.service.tiny_model import tiny_model
from training import cli
from training.data.datasets import load_dataset
from training.data.samples import Dataset, Sample
from training.data.transforms import box_on_input
from training.errors import DatasetError
from training.evaluation.evaluate import with_labels
from training.evaluation.predictors import pair_maps
from training.fit.job import Job
from training.fit.loop import fit


def test_a_box_follows_the_served_geometry() -> None:
    """Scaled, cropped and clipped with the image."""
    resize = Resize(size=100, crop=80)
    assert box_on_input((50.0, 50.0, 150.0, 100.0), (400, 200), resize).tolist() == [0, 15, 15, 40]
    assert box_on_input((-30.0, -5.0, 900.0, 500.0), (400, 200), resize).tolist() == [0, 0, 80, 80]


@pytest.fixture(scope="module")
def marked_birds(cub_like: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny data set with marks: a colour of crown and of tail, and where both are."""
    folder = tmp_path_factory.mktemp("marked")
    for entry in cub_like.iterdir():
        (folder / entry.name).symlink_to(entry)
    for name in ("attributes", "parts"):
        (folder / name).mkdir()
    groups = [f"has_{part}_color::{value}" for part in ("crown", "tail") for value in ("red", "green", "blue")]
    (folder / "attributes" / "attributes.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(groups, 1)))
    rows = (" ".join(map(str, [*(90 * np.eye(3)[index]), *(60 * np.eye(3)[index])])) for index in range(3))
    (folder / "attributes" / "class_attribute_labels_continuous.txt").write_text("\n".join(rows) + "\n")
    (folder / "parts" / "parts.txt").write_text("1 crown\n2 tail\n")
    keys = (line.split()[0] for line in (folder / "images.txt").read_text().splitlines())
    lines = (f"{key} 1 {20 + number}.0 15.0 1\n{key} 2 50.0 44.0 1\n" for number, key in enumerate(keys))
    (folder / "parts" / "part_locs.txt").write_text("".join(lines))
    return folder


@pytest.mark.slow
def test_an_exported_run_has_the_same_figures(
    make_job: Callable[..., Job],
    marked_birds: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fit, evaluate, export, evaluate the file, export again: the same network each time, and the same marks.

    Without other implementations the file is still written, and a note names their packages.
    """
    for absent in ("torchcam", "torchcam.methods", "pytorch_grad_cam"):
        monkeypatch.setitem(sys.modules, absent, None)
    birds = load_dataset(marked_birds)
    job = make_job(optim__epochs=4, dataset=birds)
    fit(job)
    run, file, again = job.out, tmp_path / "birds.onnx", tmp_path / "again.onnx"
    data = ["--data", str(marked_birds), "--workers=0", "--quiet", "--json"]
    card = tmp_path / "CARD.md"
    card.write_text("# Birds\n\n<!-- evaluation -->\n<!-- /evaluation -->\n\nMore.\n")
    report = ["--out", str(tmp_path / "report"), "--card", str(card)]

    said = []

    def command(*arguments: str) -> dict[str, Any]:
        assert cli.main(list(arguments)) == 0
        printed = capsys.readouterr()
        said.extend(printed.err.splitlines())
        answer: dict[str, Any] = json.loads(printed.out)
        return answer

    in_torch = command("evaluate", str(run), *data, "--device=cpu", "--blur=6", *report)
    exported = command("export", str(run), "--out", str(file), "--weights-dtype=fp32", "--json")
    assert (file.stat().st_size, ["peer.captum"]) == (
        exported["bytes"], [name for name in exported if name.startswith("peer.")]
    )  # fmt: skip
    assert "note: not compared with torchcam, pytorch-grad-cam: not installed; pip install torchcam grad-cam" in said
    in_onnx = command("evaluate", str(file), *data, "--blur=6", "--placings=6")
    command("export", str(file), "--out", str(again), "--name=again", "--data", str(marked_birds), "--json")
    held_out = command("evaluate", str(again), *data, "--part=held-out")
    images = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    first, second = np.array([0, 2]), np.array([1, 0])
    pairs = pair_maps(run, images, first, second)
    np.testing.assert_allclose(pairs[:, 1], pair_maps(run, images, second, first)[:, 0])
    np.testing.assert_allclose(pairs, pair_maps(file, images, first, second), atol=1e-3 * float(pairs.max()))
    assert in_onnx["images"] == len(birds.test)
    for name in ("top1", "top5", "mean_per_class", "ece", "pointing_game", "centred_gaussian"):
        assert in_onnx[name] == pytest.approx(in_torch[name], abs=1e-4), name
    for name in ("mark_auroc", "mark_hits", "mark_auc", "evidence_margin", "seen_sees"):
        assert in_onnx[name] == pytest.approx(in_torch[name], abs=1e-3), name
    assert (in_torch["mark_auroc"]["n"], in_torch["mark_sight"][1]["part"]) == (len(birds.test), "crown")
    lines = {line["map"] for line in in_onnx["maps"]}
    assert {"gradcam_centres", "gradcam_centres_minus_gradcam", "gradcam_looking", "attention_looking"} <= lines
    assert [stage["layer"] for stage in in_onnx["looking"]] == ["features.1", "features.4", "features.7", "features.12"]
    assert held_out["images"] == 6
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Red Bird" in page
    assert "http" not in page
    assert "fieldmark-train evaluate" in page
    assert (tmp_path / "report" / "predictions.csv").read_text().count("\n") == 1 + len(birds.test)
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["top1"] == in_torch["top1"]
    written = card.read_text()
    assert written.startswith("# Birds\n\n<!-- evaluation -->\n6 photos of ")
    assert written.endswith("\n<!-- /evaluation -->\n\nMore.\n")
    assert f"\nfieldmark-train evaluate {run} --data" in written
    assert cli.main(["evaluate", str(tmp_path / "nothing"), *data]) == 1


def test_a_classifier_trained_elsewhere_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its file holds no recipe, the data no boxes: report and card say nothing of either."""
    colours = {"Red bird": (250, 10, 10), "Green bird": (10, 250, 10), "Blue bird": (10, 10, 250)}
    for name, colour in colours.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (40, 40 + number), colour).save(tmp_path / "data" / name / f"{number}.png")
    Image.new("RGB", (50, 40), colours["Red bird"]).save(tmp_path / "data" / "Blue bird" / "wrong.png")
    file, out, card = tmp_path / "tiny.onnx", tmp_path / "out", tmp_path / "CARD.md"
    file.write_bytes(tiny_model())
    where = ["--data", str(tmp_path / "data"), "--part=all", "--out", str(out), "--card", str(card)]
    assert cli.main(["evaluate", str(file), *where, "--workers=0", "--quiet", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["top1"]["value"], answer["top1"]["n"], answer["maps"]) == (0.9, 10, [])
    page = (out / "report.html").read_text()
    assert "The data say nothing of where things are" in page
    assert "does not say by which recipe" in page
    assert "speaks for Red bird, not Blue bird" in page
    assert "| Top-1 | 90.0% | 59.6–98.2% | 10 |" in card.read_text()
    assert "Where the maps look" not in card.read_text()


def test_classes_are_found_by_name() -> None:
    """The data set has some of the network's classes, in another order, with numbers that older labels lack."""
    dataset = Dataset("x", ("1 wren", "robin"), (), (Sample(Path("a"), 0), Sample(Path("b"), 1)))
    assert [sample.label for sample in with_labels(("robin", "tit", "wren"), dataset, dataset.test)] == [2, 0]
    with pytest.raises(DatasetError, match="1 of them unknown"):
        with_labels(("robin", "tit"), dataset, dataset.test)


def test_data_without_a_training_part_is_evaluated(
    make_job: Callable[..., Job], cub_like: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only test photos, or class folders as a whole, of some classes; a damaged photo is one line of the message."""
    job = make_job(optim__epochs=1)
    fit(job)
    for name in ("002.Green_Bird", "003.Blue_Bird"):
        for root in (tmp_path / "data" / "Test", tmp_path / "plain"):
            shutil.copytree(cub_like / "images" / name, root / name)

    def evaluate(folder: str, *options: str) -> tuple[int, str, str]:
        data = ["--data", str(tmp_path / folder), "--workers=0", "--quiet", "--device=cpu", "--json"]
        return cli.main(["evaluate", str(job.out), *data, *options]), *capsys.readouterr()

    for folder, options, count in (("data", (), 20), ("plain", ("--part=all",), 20), ("plain", (), 4)):
        status, out, _ = evaluate(folder, *options)
        assert (status, json.loads(out)["images"]) == (0, count)
    damaged = next((tmp_path / "plain").rglob("*.png"))
    damaged.write_bytes(damaged.read_bytes()[:999])
    status, out, err = evaluate("plain", "--part=all")
    assert (status, out) == (1, "")
    assert "1 damaged images" in err
    assert "Traceback" not in err
    status, out, _ = evaluate("plain", "--part=all", "--skip-damaged")
    assert (status, json.loads(out)["images"], json.loads(out)["skipped_damaged"]) == (0, 19, 1)
    shutil.copytree(cub_like / "images" / "001.Red_Bird", tmp_path / "plain" / "004.Other")
    assert "1 of them unknown to it" in evaluate("plain", "--skip-damaged")[2]
