"""Evaluation: scores, localisation, faithfulness, and a run exported to a file and back."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from model.contract.geometry import Resize
from training import cli
from training.data.samples import Dataset, Sample
from training.data.transforms import box_on_input
from training.errors import DatasetError
from training.evaluation.evaluate import with_labels
from training.evaluation.maps.faithfulness import faithfulness_figures, probability_curve
from training.evaluation.maps.localisation import centred_gaussian, energy_in_box, localisation_figures, pointing_hits
from training.evaluation.scores import (
    accuracy_figures,
    expected_calibration_error,
    fit_temperature,
    mean_per_class_accuracy,
    top_k_accuracy,
)
from training.fit.job import Job
from training.fit.loop import fit

LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [1.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
LABELS = np.array([0, 1, 1, 2])


def test_accuracy_counts_every_image() -> None:
    """Top-1 over images, mean over classes, and top-k."""
    assert top_k_accuracy(LOGITS, LABELS, 1) == 0.5
    assert top_k_accuracy(LOGITS, LABELS, 2) == 0.75
    assert top_k_accuracy(LOGITS, LABELS, 3) == 1.0
    assert mean_per_class_accuracy(LOGITS, LABELS) == pytest.approx((1 + 0.5 + 0) / 3)


def test_the_temperature_undoes_overconfidence() -> None:
    """Logits that were multiplied by 3 get a temperature of 3, and calibration improves."""
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 1.5, (4000, 5))
    shares = np.exp(honest) / np.exp(honest).sum(1, keepdims=True)
    labels = np.array([rng.choice(5, p=row) for row in shares])
    temperature = fit_temperature(3 * honest, labels)
    assert temperature == pytest.approx(3, rel=0.1)
    assert expected_calibration_error(3 * honest, labels, temperature) < 0.03
    assert expected_calibration_error(3 * honest, labels) > 0.1
    assert fit_temperature(np.zeros((0, 5)), np.zeros(0, int)) == 1.0


def test_the_keys_of_the_figures_are_promised() -> None:
    """Programs read these names."""
    figures = accuracy_figures(LOGITS, LABELS, 1.0)
    assert {"top1", "top5", "mean_per_class", "ece", "ece_uncalibrated"} <= set(figures)


def test_a_map_points_where_its_highest_cell_is() -> None:
    """Hit inside the box, missed outside; a map of zeros points nowhere."""
    maps = np.zeros((3, 4, 4), np.float32)
    maps[0, 0, 0] = maps[1, 3, 3] = 1
    boxes = np.array([[0, 0, 20, 20]] * 3, np.float32)
    assert pointing_hits(maps, boxes, 64).tolist() == [True, False, False]
    energy = energy_in_box(maps, boxes, 64)
    assert energy[0] > 0.7
    assert energy[1:].tolist() == [0, 0]


def test_localisation_has_a_centred_gaussian_as_baseline() -> None:
    """Images without a box are left out; without any box there are no figures."""
    maps = np.random.default_rng(0).random((2, 7, 7)).astype(np.float32)
    boxes = np.array([[20, 20, 44, 44], [np.nan] * 4], np.float32)
    figures = localisation_figures(maps, maps, boxes, 64)
    assert figures["boxes"] == 1
    assert figures["centred_gaussian"] == 1
    assert {"pointing_game", "pointing_game_attention", "energy_gaussian"} <= set(figures)
    assert localisation_figures(maps, None, boxes[1:].repeat(2, 0), 64) == {}
    assert centred_gaussian(8).argmax() in (27, 28, 35, 36)


def test_a_box_follows_the_served_geometry() -> None:
    """Scaled, cropped and clipped with the image."""
    resize = Resize(size=100, crop=80)
    assert box_on_input((50.0, 50.0, 150.0, 100.0), (400, 200), resize).tolist() == [0, 15, 15, 40]
    assert box_on_input((-30.0, -5.0, 900.0, 500.0), (400, 200), resize).tolist() == [0, 0, 80, 80]


def test_a_faithful_map_beats_a_random_order() -> None:
    """A classifier of one corner's detail is explained by a map of that corner."""
    torch.manual_seed(0)
    images = torch.randint(0, 120, (4, 3, 32, 32), dtype=torch.uint8)
    images[:, :, :8, :8] = torch.randint(0, 2, (4, 3, 8, 8), dtype=torch.uint8) * 255

    def classify(batch: torch.Tensor) -> np.ndarray:
        detail = batch[:, :, :8, :8].float().flatten(1).std(1) / 128
        return torch.stack([detail.clamp(0, 1), 1 - detail.clamp(0, 1)], 1).numpy()

    corner = np.zeros((4, 4, 4), np.float32)
    corner[:, 0, 0] = 1
    figures = faithfulness_figures(classify, images, {"corner": corner})
    assert figures["deletion_corner"] < figures["deletion_random"]
    assert figures["insertion_corner"] > figures["insertion_random"]
    curve = probability_curve(classify, images, corner, np.zeros(4, int), "deletion")
    assert curve.shape == (4, 17)
    assert (curve[:, 0] > curve[:, -1]).all()


def test_an_exported_run_has_the_same_figures(
    make_job: Callable[..., Job], birds: Dataset, cub_like: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fit, evaluate, export, evaluate the file, export again: the same network each time."""
    job = make_job(optim__epochs=4)
    fit(job)
    run, file, again = job.out, tmp_path / "birds.onnx", tmp_path / "again.onnx"
    data = ["--data", str(cub_like), "--workers=0", "--quiet", "--json"]
    report = ["--out", str(tmp_path / "report"), "--faithfulness=2"]

    def command(*arguments: str) -> dict[str, float]:
        assert cli.main(list(arguments)) == 0
        answer: dict[str, float] = json.loads(capsys.readouterr().out)
        return answer

    in_torch = command("evaluate", str(run), *data, "--device=cpu", *report)
    command("export", str(run), "--out", str(file), "--weights-dtype=fp32", "--json")
    in_onnx = command("evaluate", str(file), *data)
    command("export", str(file), "--out", str(again), "--name=again", "--data", str(cub_like), "--json")
    held_out = command("evaluate", str(again), *data, "--part=held-out")
    assert in_onnx["images"] == len(birds.test)
    for name in ("top1", "top5", "mean_per_class", "ece", "pointing_game", "centred_gaussian"):
        assert in_onnx[name] == pytest.approx(in_torch[name], abs=1e-4)
    assert held_out["images"] == 6
    assert "deletion_random" in in_torch
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<figure>") >= 1
    assert "Red Bird" in page
    assert "http" not in page
    assert (tmp_path / "report" / "predictions.csv").read_text().count("\n") == 1 + len(birds.test)
    assert cli.main(["evaluate", str(tmp_path / "nothing"), *data]) == 1


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
