"""What one call of `fit` is asked to do, and how it ended."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.data.samples import Dataset
from training.recipe import Recipe


@dataclass(frozen=True)
class Job:
    """What one call of `fit` is asked to do.

    Attributes:
        recipe: how to train.
        dataset: what on.
        out: folder of the run.
        weights: of the backbone at the start, as for `model.network.backbone.create_backbone`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        workers: processes that vary images; 0 does it in this one.
        cache: folder of the decoded photos.
        fresh: start anew even where the folder holds a run.
        time_budget_s: stop cleanly after so many seconds; None: no limit.
        visible: show progress.
        commit: of this project, for provenance.
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


@dataclass(frozen=True)
class Outcome:
    """How a call of `fit` ended.

    Attributes:
        finished: whether all epochs are done; else the next call goes on.
        epoch: epochs done.
        metrics: of the selected weights on the held-out part.
        interrupted: whether a signal stopped it, rather than the time budget.
        leads: whether this process speaks for all.
    """

    finished: bool
    epoch: int
    metrics: dict[str, float]
    interrupted: bool = False
    leads: bool = True
