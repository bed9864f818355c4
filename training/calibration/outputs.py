"""What a network answers for the photos of a run, kept in the run's folder: calibration is fitted on it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.files import replacing
from training.data.check import content_of
from training.data.samples import Sample
from training.errors import CheckpointError

HELD_OUT = "held_out.npz"
"""In a run's folder: the answers for photos that the answering network was not trained on."""
FOLDS = "folds"
"""In a run's folder: the folders of its folds, `1` and so on, each with both of these."""
TRAINED = "trained.npz"
"""In a run's folder: the answers for photos that it was trained on."""

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Texts = npt.NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class Outputs:
    """Answers for n photos.

    Attributes:
        logits: of the classes, (n, K).
        pooled: the vector that the head reads, (n, C).
        marks: logits of the marks, (n, A); A is 0 where the network reads none.
        labels: of the photos, (n,).
        fold: number of the fold whose network answered, from 1; 0 where it is the run's own network; (n,).
        path: of each photo, (n,).
        content: its bytes and class, from `content_of`, (n,).
    """

    logits: Floats
    pooled: Floats
    marks: Floats
    labels: Ints
    fold: Ints
    path: Texts
    content: Texts

    @classmethod
    def of(cls, samples: Sequence[Sample], logits: Floats, pooled: Floats, marks: Floats, fold: int = 0) -> "Outputs":
        """Return the answers for some samples, in their order.

        Args:
            samples: of the photos.
            logits: (n, K).
            pooled: (n, C).
            marks: (n, A).
            fold: whose network answered.
        """
        labels = np.array([sample.label for sample in samples], np.int64)
        path = np.array([str(sample.path) for sample in samples], np.str_)
        content = np.array(content_of(samples), np.str_)
        return cls(logits, pooled, marks, labels, np.full(len(samples), fold, np.int64), path, content)

    @classmethod
    def joined(cls, parts: Sequence["Outputs"]) -> "Outputs":
        """Return the answers of all parts, one after the other."""
        return cls(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls)))

    def of_fold(self, number: int) -> "Outputs":
        """Return the answers of one fold's network."""
        own = self.fold == number
        return type(self)(*(getattr(self, one.name)[own] for one in fields(self)))

    def write(self, path: Path) -> None:
        """Write them, whole or not at all.

        Raises:
            WriteError: the file cannot be written.
        """
        with replacing(path) as file:
            np.savez(file, **vars(self))

    @classmethod
    def read(cls, path: Path) -> "Outputs | None":
        """Return what was written, or None where no file is.

        Raises:
            CheckpointError: the file is damaged.
        """
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(*(arrays[one.name] for one in fields(cls)))
        except Exception as error:  # zip and numpy raise many kinds of errors on damaged files
            raise CheckpointError(f"{path} is damaged: {error}") from error
