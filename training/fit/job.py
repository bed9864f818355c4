"""The input of one call of `fit`, and its outcome."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from training.data.samples import Dataset, Sample
from training.recipe import Recipe


class Parts(NamedTuple):
    """The training part of a data set, divided.

    Attributes:
        train: for training.
        held: held out, for selection and calibration.
    """

    train: list[Sample]
    held: list[Sample]


@dataclass(frozen=True)
class Job:
    """The input of one call of `fit`.

    Attributes:
        recipe: how to train.
        dataset: to train on.
        out: folder of the run.
        weights: of the backbone at the start; as for `model.network.backbone.create_backbone`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        workers: processes that vary images; 0: this process does it.
        cache: folder of the decoded photos.
        fresh: start over even if the folder holds a run.
        time_budget_s: stop cleanly after so many seconds; None: no limit.
        visible: show progress.
        commit: of fieldmark, for provenance.
        parts: of the training photos, instead of the recipe's; the photos of all parts then share one store.
        keep_outputs: keep in the folder what the network answers for held-out and for training photos.
    """

    recipe: Recipe
    dataset: Dataset
    out: Path
    weights: Literal["imagenet"] | Path | None
    cache: Path
    device: str = "auto"
    workers: int = 0
    fresh: bool = False
    time_budget_s: float | None = None
    visible: bool = True
    commit: str = "unknown"
    parts: Parts | None = None
    keep_outputs: bool = False

    @property
    def weights_name(self) -> str:
        """The starting weights' name, for provenance: `imagenet`, the file's name, or `random`."""
        return self.weights.name if isinstance(self.weights, Path) else self.weights or "random"


@dataclass(frozen=True)
class Outcome:
    """How a call of `fit` ended.

    Attributes:
        finished: whether all epochs are done; otherwise the next call continues.
        epoch: epochs done.
        metrics: of the selected weights on the held-out part.
        interrupted: whether a signal stopped it rather than the time budget.
        leads: whether this process reports for all.
        fold: number of the fold that was stopped; 0: none was.
        folds: what was measured over all folds: their number, and figures of top-1; empty without folds.
    """

    finished: bool
    epoch: int
    metrics: dict[str, float]
    interrupted: bool = False
    leads: bool = True
    fold: int = 0
    folds: dict[str, Any] = field(default_factory=dict)
