"""The answers of a run: what is kept of them, and what a damaged file gives."""

from pathlib import Path

import numpy as np
import pytest

from training.data.samples import Sample
from training.errors import CheckpointError
from training.predictions import PREDICTIONS, Predictions, predictions_of, read_predictions


def made(seed: int = 0, n: int = 60, classes: int = 5, data: Path = Path("/data")) -> Predictions:
    """Return predictions of made logits."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 8, (n, classes)).astype(np.float32)
    samples = [Sample(data / "Vögel" / f"{index}.jpg", int(rng.integers(classes))) for index in range(n)]
    measures = {"pointing_game": rng.random(n) < 0.5, "contrast_score": np.where(rng.random(n) < 0.5, np.nan, 0.25)}
    return predictions_of(logits, samples, [f"class {k}" for k in range(classes)], 1.3, data, measures)


def test_predictions_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Paths relative to the data, a digest of the classes, and the same digest of all."""
    before = made()
    before.write(tmp_path)
    after = read_predictions(tmp_path)
    assert after is not None
    assert before.digest == after.digest
    assert (before.photos[3], before.temperature) == (after.photos[3], after.temperature) == ("Vögel/3.jpg", 1.3)
    assert np.array_equal(before.right, after.right)
    assert np.array_equal(before.measures["contrast_score"], after.measures["contrast_score"], equal_nan=True)
    assert before.right.mean() == pytest.approx(after.values("top1").mean())
    assert after.values("energy") is None
    assert made(data=Path("/elsewhere/data")).digest == before.digest != made(seed=1).digest


def test_float16_changes_no_answer() -> None:
    """Logits that differ in the sixth digit keep their order, because the highest is taken off before."""
    logits = np.array([[30.000002, 30.0, -1e6], [1.0, 1.0, 0.0]], np.float32)
    samples = [Sample(Path("a"), 0), Sample(Path("b"), 1)]
    found = predictions_of(logits, samples, ["a", "b", "c"], 1.0, Path())
    assert [True, False] == found.right.tolist()
    assert np.isfinite(found.logits).all()


def test_a_file_that_is_missing_or_damaged(tmp_path: Path) -> None:
    """Missing: an older version's run. Damaged, or with code inside: refused by name."""
    assert read_predictions(tmp_path) is None
    path = tmp_path / PREDICTIONS
    made().write(tmp_path)
    whole = path.read_bytes()
    for content in (b"", b"PK", whole[:200], whole[:-30]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{PREDICTIONS} is damaged"):
            read_predictions(tmp_path)
    code = {"logits": np.array([object()], dtype=object)}
    np.savez(path, **code)
    with pytest.raises(CheckpointError, match="damaged"):
        read_predictions(tmp_path)
    np.savez(path, logits=np.zeros((2, 3)), labels=np.zeros(1), photos=np.array(["a", "b"]), classes="", temperature=1)
    with pytest.raises(CheckpointError, match="differ in length"):
        read_predictions(tmp_path)
