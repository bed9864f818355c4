"""Does a score distinguish photos of unknown things from photos of the known classes? Area under the curve, and FPR95.

FPR95 is the share of unknown photos that pass where 95% of the known ones do: known photos are the positive ones, as
in Liang et al. 2018, arXiv:1706.02690. The largest probability and the largest logit are the baselines: Hendrycks &
Gimpel 2017, arXiv:1610.02136, and Hendrycks et al. 2022, arXiv:1911.11132.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from training.data.layouts.files import read_tree
from training.data.samples import Sample
from training.errors import DatasetError
from training.evaluation.evaluate import Evaluation
from training.evaluation.figures import Figure, share, statistics

Floats = npt.NDArray[np.floating]

ACCEPTED = 0.95
"""Share of known photos that pass."""
NOVELTY = "novelty"


@dataclass(frozen=True)
class UnknownResult:
    """What was found of the photos of one folder.

    Attributes:
        name: of the folder, as short as it differs from the others'.
        photos: in it.
        rows: by score, the model's own novelty first where it has it: `auroc` and `fpr95`.
        above: share of the folder's photos that the model calls unknown; None where it has no novelty.
        known_above: the same of the photos of known classes.
    """

    name: str
    photos: int
    rows: Mapping[str, Mapping[str, Figure]]
    above: Figure | None
    known_above: Figure | None

    @property
    def figures(self) -> dict[str, Figure]:
        """By their names in text, without the baselines."""
        found = {f"{key} {self.name}": figure for key, figure in self.rows.get(NOVELTY, {}).items()}
        return {f"novelty_{key}": figure for key, figure in found.items()} | (
            {} if self.above is None else {f"novelty_above {self.name}": self.above}
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what stands in JSON."""
        shares = {"above": self.above, "known_above": self.known_above}
        return {
            "folder": self.name,
            "photos": self.photos,
            "scores": {name: {key: value.to_dict() for key, value in row.items()} for name, row in self.rows.items()},
            **{name: figure.to_dict() for name, figure in shares.items() if figure is not None},
        }


def unknown_results(known: Evaluation, folders: Sequence[Path], found: Sequence[Evaluation]) -> list[UnknownResult]:
    """Return what was found of every folder.

    Args:
        known: the model's answers for photos of known classes.
        folders: of photos of unknown things.
        found: the model's answers for the photos in each.
    """
    return [_result(name, known, unknown) for name, unknown in zip(names_of(folders), found, strict=True)]


def photos_in(folder: Path) -> list[Sample]:
    """Return the photos in a folder and in those below it.

    Raises:
        DatasetError: there is no such folder, or no photo in it.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder")
    photos = read_tree(folder).all_photos()
    if not photos:
        raise DatasetError(f"{folder} has no photos")
    return [Sample(path, 0) for path in photos]


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return the last parts of the folders' paths, as many as distinguish each from the others."""
    parts = [folder.resolve().parts for folder in folders]
    names = []
    for own in parts:
        others = [other for other in parts if other != own]
        count = next((n for n in range(1, len(own)) if all(own[-n:] != other[-n:] for other in others)), len(own))
        names.append("/".join(own[-count:]))
    return names


def separation(known: Floats, unknown: Floats) -> dict[str, Figure]:
    """Return `auroc` and `fpr95` of a score that is higher for unknown photos; n is the number of unknown ones.

    Args:
        known: scores of photos of known classes, (n,).
        unknown: scores of others, (m,).
    """
    scores = np.concatenate([known, unknown]).astype(np.float64)
    is_unknown = np.arange(len(scores)) >= len(known)

    def of(chosen: npt.NDArray[np.integer]) -> tuple[float, float]:
        drawn, those = scores[chosen], is_unknown[chosen]
        count = int(those.sum())
        if count in (0, len(drawn)):
            return float("nan"), float("nan")
        beaten = rankdata(drawn)[those].sum() - count * (count + 1) / 2
        passed = drawn[those] <= np.quantile(drawn[~those], ACCEPTED)
        return float(beaten / count / (len(drawn) - count)), float(passed.mean())

    figures = statistics(of, len(scores), [(0.0, 1.0), (0.0, 1.0)])
    return {name: replace(figure, n=len(unknown)) for name, figure in zip(("auroc", "fpr95"), figures, strict=True)}


def _result(name: str, known: Evaluation, unknown: Evaluation) -> UnknownResult:
    scores = {name: (_scores(known)[name], higher) for name, higher in _scores(unknown).items()}
    above = known_above = None
    if known.novelty is not None:
        known_above, above = (share(each > known.novelty.threshold) for each in scores[NOVELTY])
    rows = {score: separation(*pair) for score, pair in scores.items()}
    return UnknownResult(name, len(unknown.samples), rows, above, known_above)


def _scores(evaluation: Evaluation) -> dict[str, Floats]:
    """Return every score of the photos by name, each higher for unknown ones, (n,)."""
    own = {} if evaluation.prediction.novelty is None else {NOVELTY: evaluation.prediction.novelty}
    probability, logit = evaluation.probabilities.max(axis=1), evaluation.prediction.logits.max(axis=1)
    return own | {"max_probability": -probability, "max_logit": -logit}
