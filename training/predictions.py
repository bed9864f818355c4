"""The answers of one run for every test photo, kept beside its result, so that runs can be compared photo by photo."""

import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.files import write_whole
from training.data.samples import Sample
from training.errors import CheckpointError

PREDICTIONS = "predictions.npz"
MEASURE = "measure."
"""Before the name of a measure, in the file."""


@dataclass(frozen=True)
class Predictions:
    """Of n photos and K classes.

    Attributes:
        logits: less each photo's highest, which changes no probability and leaves float16 finest where classes
            compete, (n, K) float16.
        labels: true classes, (n,).
        photos: paths relative to the data folder, with `/`.
        classes: `digest_of` the list of labels.
        temperature: of the probabilities.
        measures: what else was measured of each photo, by name, (n,) float32; NaN where a photo does not count.
    """

    logits: npt.NDArray[np.float16]
    labels: npt.NDArray[np.int32]
    photos: tuple[str, ...]
    classes: str
    temperature: float
    measures: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether each photo is named rightly, (n,)."""
        return np.asarray(self.logits.argmax(axis=1) == self.labels)

    @property
    def of_photos(self) -> str:
        """Digest of the photos and their true classes."""
        return photos_digest(self.photos, self.labels.tolist())

    @cached_property
    def digest(self) -> str:
        """Of everything: equal for equal predictions, whatever file they are in."""
        arrays: dict[str, npt.NDArray[Any]] = {"logits": self.logits, **dict(sorted(self.measures.items()))}
        bytes_of = (f"{name}:{hashlib.sha256(values.tobytes()).hexdigest()}" for name, values in arrays.items())
        return digest_of([self.of_photos, self.classes, repr(self.temperature), *bytes_of])

    def values(self, metric: str) -> npt.NDArray[np.floating] | None:
        """Return a value a photo, (n,): whether it is named rightly for `top1`, or a measure; None: not measured."""
        return self.right.astype(np.float32) if metric == "top1" else self.measures.get(metric)

    def write(self, folder: Path) -> None:
        """Write `predictions.npz` into the folder of a run, whole or not at all."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {
            "logits": self.logits,
            "labels": self.labels,
            "photos": np.array(self.photos, dtype=np.str_),
            "classes": np.array(self.classes),
            "temperature": np.array(self.temperature),
        }
        arrays |= {f"{MEASURE}{name}": values for name, values in self.measures.items()}
        np.savez_compressed(buffer, **arrays)
        write_whole(folder / PREDICTIONS, buffer.getbuffer())


def predictions_of(
    logits: npt.NDArray[np.floating],
    samples: Sequence[Sample],
    classes: Sequence[str],
    temperature: float,
    data: Path,
    measures: Mapping[str, npt.NDArray[np.floating]] | None = None,
) -> Predictions:
    """Return the predictions of a network.

    Args:
        logits: (n, K).
        samples: the n photos, with the network's class numbers.
        classes: labels of the network's K classes.
        temperature: of the probabilities.
        data: folder of the data set.
        measures: what else was measured of each photo, by name, (n,).
    """
    below = logits - logits.max(axis=1, keepdims=True)
    return Predictions(
        np.maximum(below, np.finfo(np.float16).min).astype(np.float16),
        np.array([sample.label for sample in samples], dtype=np.int32),
        names_of(samples, data),
        digest_of(classes),
        float(temperature),
        {name: np.asarray(values, dtype=np.float32) for name, values in (measures or {}).items()},
    )


def read_predictions(folder: Path) -> Predictions | None:
    """Read `predictions.npz` from the folder of a run, running no code from it; None where there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    path = folder / PREDICTIONS
    if not path.is_file():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            found = Predictions(
                file["logits"],
                file["labels"],
                tuple(file["photos"].tolist()),
                str(file["classes"]),
                float(file["temperature"]),
                {name.removeprefix(MEASURE): file[name] for name in file.files if name.startswith(MEASURE)},
            )
    except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    shapes = {found.labels.shape, (len(found.photos),), *(values.shape for values in found.measures.values())}
    if found.logits.ndim != 2 or shapes != {(len(found.logits),)}:
        raise CheckpointError(f"{path} is damaged: its arrays differ in length")
    return found


def names_of(samples: Sequence[Sample], data: Path) -> tuple[str, ...]:
    """Return the paths of photos relative to the folder of the data set, with `/`."""
    return tuple(Path(os.path.relpath(sample.path, data)).as_posix() for sample in samples)


def digest_of(names: Iterable[str]) -> str:
    """Return the digest of names in their order."""
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def photos_digest(photos: Iterable[str], labels: Iterable[int]) -> str:
    """Return the digest of photos and their true classes, in their order."""
    return digest_of(f"{photo}:{label}" for photo, label in zip(photos, labels, strict=True))
