"""What is fitted to photos after a network was trained, and travels beside its weights."""

from typing import NamedTuple

from model.explain.embedding import PrincipalAxes
from model.explain.marks import MarkCalibration
from model.explain.novelty import NoveltyFit


class Fitted(NamedTuple):
    """What an export adds to a network; each part only where there were photos to fit it to.

    Attributes:
        marks: calibration of the logits of marks; None takes them as they are.
        embedding: principal axes of the pooled vectors; None leaves the file without an embedding.
        novelty: what a score of novelty is made of; None leaves the file without one.
    """

    marks: MarkCalibration | None = None
    embedding: PrincipalAxes | None = None
    novelty: NoveltyFit | None = None


NOTHING = Fitted()
