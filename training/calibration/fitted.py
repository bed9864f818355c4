"""What an export adds to a run's network, fitted to the answers that the run kept."""

from pathlib import Path

import numpy as np

from model.contract.sets import Sets
from model.explain.fitted import Fitted
from training.calibration.embedding import embedding_axes
from training.calibration.marks import calibrate_marks
from training.calibration.novelty import fit_novelty
from training.calibration.outputs import FOLDS, HELD_OUT, TRAINED, Outputs
from training.calibration.sets import fit_sets
from training.data.marks import Marks


def fitted_to(run: Path, marks: Marks | None = None) -> Fitted:
    """Return the marks' calibration, the embedding's axes and the score of novelty, each where the run kept enough.

    The marks and the scale of novelty are fitted to answers for held-out photos, of the folds where there were any; the
    embedding and the classes' means are made of training photos.

    Args:
        run: folder of the run.
        marks: that the network reads, if any.

    Raises:
        CheckpointError: the answers cannot be read.
        TrainingError: there are too few photos.
    """
    held, trained = Outputs.read(run / HELD_OUT), Outputs.read(run / TRAINED)
    calibration = None
    if marks is not None and held is not None:
        calibration = calibrate_marks(held.marks, marks.table[held.labels])
    if trained is None:
        return Fitted(calibration)
    axes = embedding_axes(trained.pooled)
    if held is None:
        return Fitted(calibration, axes)
    answered = [
        (own, axes if own is trained else embedding_axes(own.pooled), held.of_fold(fold))
        for fold in np.unique(held.fold).tolist()
        if (own := Outputs.read(run / FOLDS / str(fold) / TRAINED) if fold else trained) is not None
    ]
    return Fitted(calibration, axes, fit_novelty(trained, axes, answered))


def sets_of(run: Path, temperature: float) -> Sets | None:
    """Return how the prediction sets of a run's model are made; None where it answered no photos in folds.

    Args:
        run: folder of the run.
        temperature: of the model's probabilities.

    Raises:
        CheckpointError: the answers cannot be read.
    """
    held = Outputs.read(run / HELD_OUT)
    return None if held is None else fit_sets(held, temperature)
