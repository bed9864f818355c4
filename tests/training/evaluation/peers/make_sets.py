"""Prediction sets of MAPIE for made probabilities, which the tests compare ours with.

MAPIE brings scikit-learn, which nothing else here needs, so this runs in another environment:

    python -m venv peers && peers/bin/pip install mapie==1.6.0
    peers/bin/python tests/training/evaluation/peers/make_sets.py
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
CLASSES, CALIBRATED, SEED = 6, 240, 3
LEVELS = (0.6, 0.8, 0.9, 0.95)


def made_probabilities() -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (n, K) most of them right, and labels (n,); the last 60 photos are not calibrated on."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, CLASSES, CALIBRATED + 60)
    logits = rng.normal(size=(len(labels), CLASSES)) * 1.5
    logits[np.arange(len(labels)), labels] += 2
    odds = np.exp(logits)
    return odds / odds.sum(axis=1, keepdims=True), labels


def main() -> None:
    """Write sets.json: of every score and coverage the sets of the last 60 photos, as bits of their classes.

    MAPIE leaves out a random share of a class's own probability when it calibrates APS and RAPS, not in the sets.
    """
    from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.model_selection import StratifiedShuffleSplit

    class Known(ClassifierMixin, BaseEstimator):
        """Answers the probabilities that it is asked with."""

        classes_ = np.arange(CLASSES)

        def fit(self, X: Any, y: Any) -> "Known":
            return self

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def predict_proba(self, X: Any) -> Any:
            return np.asarray(X)

        def predict(self, X: Any) -> Any:
            return np.asarray(X).argmax(axis=1)

    p, labels = made_probabilities()
    found: dict[str, Any] = {}
    for score in ("lac", "aps", "raps"):
        made = SplitConformalClassifier(
            Known(), confidence_level=list(LEVELS), conformity_score=score, prefit=True, random_state=SEED
        )
        made.conformalize(p[:CALIBRATED], labels[:CALIBRATED])
        asked = {} if score == "lac" else {"include_last_label": False}
        _, sets = made.predict_set(p[CALIBRATED:], conformity_score_params=asked)
        bits = (sets * (1 << np.arange(CLASSES))[None, :, None]).sum(axis=1)
        found[score] = {str(level): bits[:, index].tolist() for index, level in enumerate(LEVELS)}
        if score == "raps":
            inner = made._mapie_classifier.conformity_score_function_
            division = StratifiedShuffleSplit(1, test_size=len(inner.X_raps), random_state=SEED)
            ((used, chosen_on),) = division.split(p[:CALIBRATED], labels[:CALIBRATED])
            assert (p[chosen_on] == inner.X_raps).all()
            found["raps_settings"] = {
                "weight": np.ravel(inner.lambda_star).tolist(),
                "rank": np.ravel(inner.k_star).tolist(),
                "calibrated_on": used.tolist(),
            }
    (HERE / "sets.json").write_text(json.dumps({"mapie": version("mapie"), **found}) + "\n")


if __name__ == "__main__":
    main()
