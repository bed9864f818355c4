"""Values of other packages for made inputs, which the tests compare ours with.

Quantus and grad-cam each bring a `cv2` of their own and will not live in one environment, so this runs in another:

    python -m venv peers && peers/bin/pip install quantus torchmetrics torchcam numpy
    peers/bin/python tests/training/evaluation/peers/make_reference.py
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def made_maps() -> tuple[np.ndarray, np.ndarray]:
    """Return maps (n, S, S) and regions of several shapes (n, S, S), the same wherever this runs."""
    rng = np.random.default_rng(0)
    maps = rng.random((12, 32, 32)).astype(np.float32) ** 3
    regions = np.zeros((12, 32, 32), dtype=bool)
    for index in range(12):
        top, left = rng.integers(0, 20, 2)
        height, width = rng.integers(3, 12, 2)
        regions[index, top : top + height, left : left + width] = True
        regions[index] &= rng.random((32, 32)) > 0.2
        if index % 2 == 0:  # every other map is right
            maps[index] += 2 * regions[index] * rng.random((32, 32), dtype=np.float32)
    return maps, regions


def made_logits() -> tuple[np.ndarray, np.ndarray]:
    """Return logits (n, K) that are right more often than not, and labels (n,)."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 7, 300)
    logits = rng.normal(size=(300, 7)).astype(np.float32)
    logits[np.arange(300), labels] += 1.5
    return logits, labels


def main() -> None:
    """Write reference.json."""
    import quantus
    import torch
    from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score

    maps, regions = made_maps()
    inputs = np.zeros((12, 1, 32, 32), dtype=np.float32)

    class Nothing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :2]

    found = {}
    for name, metric in {
        "pointing": quantus.PointingGame(disable_warnings=True),
        "energy": quantus.RelevanceMassAccuracy(disable_warnings=True, abs=False, normalise=False),
        "rank": quantus.RelevanceRankAccuracy(disable_warnings=True, abs=False, normalise=False),
    }.items():
        values = metric(
            Nothing(), inputs, np.zeros(12, dtype=int), a_batch=maps[:, None], s_batch=regions[:, None], device="cpu"
        )
        found[name] = [float(value) for value in values]
    logits, labels = (torch.from_numpy(values) for values in made_logits())
    probabilities = logits.double().softmax(1)
    found |= {
        "top1": float(MulticlassAccuracy(7, average="micro")(probabilities, labels)),
        "top5": float(MulticlassAccuracy(7, average="micro", top_k=5)(probabilities, labels)),
        "mean_per_class": float(MulticlassAccuracy(7, average="macro")(probabilities, labels)),
        "macro_f1": float(MulticlassF1Score(7, average="macro")(probabilities, labels)),
        "ece": float(MulticlassCalibrationError(7, n_bins=15, norm="l1")(probabilities, labels)),
    }
    versions = {package: version(package) for package in ("quantus", "torchmetrics", "torch")}
    (HERE / "reference.json").write_text(json.dumps({"versions": versions, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
