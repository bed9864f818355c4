"""What the network of a finished run answers, kept in the run's folder for its calibration."""

from collections.abc import Sequence
from pathlib import Path

from training.calibration.outputs import HELD_OUT, TRAINED, Outputs
from training.checkpoint import Selected
from training.data.samples import Sample, spread
from training.fit.job import Job, Parts
from training.fit.learner import Learner
from training.fit.loaders import Batches, Loaders, served_batches
from training.fit.processes import ProcessGroup
from training.fit.selection import predict

MOST_TRAINED = 2048
"""Limit of training photos that are answered."""


def keep_outputs(
    job: Job, parts: Parts, learner: Learner, loaders: Loaders, selected: Selected, processes: ProcessGroup
) -> None:
    """Write the selected network's answers for the held-out photos, if any, and for training photos.

    Answers for training photos are written last: where they are, all is done, and nothing is answered again.

    Args:
        job: of the run.
        parts: photos that were trained on, and that were held out.
        learner: with the last weights, which are replaced by the selected ones.
        loaders: batches of both parts.
        selected: weights.
        processes: the group; its leader answers.
    """
    if not processes.leads or (job.out / TRAINED).is_file():
        return
    learner.evaluated.load_state_dict(selected.state_dict)
    if parts.held:
        outputs_of(learner, loaders.held, parts.held).write(job.out / HELD_OUT)
    trained = spread(parts.train, MOST_TRAINED)
    batches = served_batches(job, trained, learner, processes)
    outputs_of(learner, batches, trained).write(job.out / TRAINED)


def discard_outputs(out: Path) -> None:
    """Remove the answers of an earlier run in the same folder."""
    for name in (HELD_OUT, TRAINED):
        (out / name).unlink(missing_ok=True)


def outputs_of(learner: Learner, batches: Batches, samples: Sequence[Sample], fold: int = 0) -> Outputs:
    """Return the network's answers.

    Args:
        learner: with the weights that answer.
        batches: of the photos.
        samples: the same photos, in the same order.
        fold: whose network it is.
    """
    predictions = predict(learner, batches)
    return Outputs.of(samples, predictions.logits, predictions.pooled, predictions.marks, fold)
