"""How well scores distinguish unknown photos: against pytorch-ood, and the folders they are in."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_ood.metrics.ood import OODMetrics

from training.errors import DatasetError
from training.evaluation.unknown import names_of, photos_in, separation


def test_area_and_rate_are_pytorch_oods() -> None:
    """It counts unknown photos as the positive ones: its FPR95 is ours with both sides exchanged and turned."""
    rng = np.random.default_rng(0)
    known, unknown = rng.normal(size=400), 1.5 + rng.normal(size=200)
    found = separation(known, unknown)
    metrics = OODMetrics()
    metrics.update(torch.from_numpy(np.concatenate([known, unknown])), torch.tensor([0] * 400 + [-1] * 200))
    assert found["auroc"].value == pytest.approx(metrics.compute()["AUROC"], rel=1e-4)
    metrics = OODMetrics()
    metrics.update(-torch.from_numpy(np.concatenate([known, unknown])), torch.tensor([-1] * 400 + [0] * 200))
    assert found["fpr95"].value == pytest.approx(metrics.compute()["FPR95TPR"], abs=0.006)
    for figure in found.values():
        assert figure.low < figure.value < figure.high
        assert figure.n == 200


def test_equal_scores_count_half() -> None:
    """Nothing is distinguished, and all unknown photos pass."""
    found = separation(np.ones(5), np.ones(3))
    assert (0.5, 1.0) == (found["auroc"].value, found["fpr95"].value)


def test_folders_have_the_shortest_names_that_differ() -> None:
    """Two folders called `images` take the folder above along."""
    assert ["not_birds"] == names_of([Path("/a/not_birds")])
    assert ["x/images", "y/images", "c"] == names_of([Path("/a/x/images"), Path("/a/y/images"), Path("/b/c")])


def test_photos_are_found_at_every_depth(tmp_path: Path) -> None:
    """Other files are no photos; a folder without any, or none at all, is refused."""
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DatasetError, match="has no photos"):
        photos_in(tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "deep" / "deeper" / "a.png")
    assert ["a.png"] == [sample.path.name for sample in photos_in(tmp_path)]
    with pytest.raises(DatasetError, match="is not a folder"):
        photos_in(tmp_path / "absent")
