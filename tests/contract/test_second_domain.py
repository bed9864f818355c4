"""Another domain than birds: class folders of butterflies with a table of marks, from photos to served words."""

import csv
from pathlib import Path

import numpy as np
import pytest

from service.http.api.schemas import Classification
from service.settings import Settings
from tests.service.running import PATIENCE_S, running
from training.cli import main

TABLE = Path(__file__).parent.parent / "data" / "leeds_butterfly_marks.csv"
TRAINED, ASKED = 14, 3
"""Photos of each species that are trained on, and others that are asked for."""


@pytest.mark.slow
def test_butterflies_are_told_apart_in_words(data_dir: Path, tmp_path: Path) -> None:
    """Most photos get their species, and the marks that are seen first are those that the table has for it."""
    species = sorted((data_dir / "leeds_butterfly" / "images").iterdir())
    folder, asked = tmp_path / "butterflies", dict[Path, str]()
    for each in species:
        (folder / each.name).mkdir(parents=True)
        photos = sorted(each.iterdir())[: TRAINED + ASKED]
        for photo in photos[:TRAINED]:
            (folder / each.name / photo.name).symlink_to(photo)
        asked |= dict.fromkeys(photos[TRAINED:], each.name[4:].replace("_", " "))
    (folder / "marks.csv").write_text(TABLE.read_text())
    weights = data_dir / "weights" / "mobilenet_v2_inat_birds965.pth"
    run, file = tmp_path / "run", tmp_path / "butterflies.onnx"
    settings = ["data.cached_views=1", "marks.sight=1", "marks.evidence=0"]
    changes = [part for setting in settings for part in ("--set", setting)]
    assert main(["fit", "--data", str(folder), "--recipe", "birds", "--epochs", "4", "--weights", str(weights),
                 "--cache", str(tmp_path), "--quiet", "--workers", "0", *changes, "--out", str(run)]) == 0  # fmt: skip
    assert main(["export", str(run), "--out", str(file)]) == 0
    with TABLE.open() as table:
        parts = {name.split(": ")[0] for name in next(csv.reader(table))[1:]}
    right, first = [], []
    served = Settings(model=file, device="cpu", request_timeout_ms=PATIENCE_S * 1000)
    with running(served) as server, server.client() as client:
        for photo, name in asked.items():
            jpeg = {"Content-Type": "image/jpeg"}
            answer = client.post("/classify?marks=3", content=photo.read_bytes(), headers=jpeg).raise_for_status()
            found = Classification.model_validate(answer.json())
            right.append(found.predictions[0].label == name)
            marks = found.marks or []
            assert {mark.part for mark in marks} <= parts
            first += [mark.typical for mark in marks if right[-1] and mark.typical is not None]
    assert np.mean(right) >= 0.8
    assert len(first) >= len(asked)
    assert np.mean(np.array(first) >= 0.5) >= 0.8
