"""What may be there and how common it is: Bayes' rule on the calibrated probabilities.

The probability of a class is multiplied by its prior, that of classes outside `among` by 0, and the products are
divided by their sum. The prior is taken relative to equally common classes, as those that a model is trained on are.

Source: Saerens, Latinne and Decaestecker 2002, "Adjusting the outputs of a classifier to new a priori probabilities",
Neural Computation 14(1), equation 2.4.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from service.errors import NoClassLeft, UnknownClass, UnknownPrior
from service.inference.engine import Outputs, Question
from service.inference.files.priors import MAX_NAME
from service.inference.predictor import Again, Prediction
from service.inference.served import ServedModel
from service.inference.targets import NUM_NEAREST, classes_of, resolve_target

Floats = npt.NDArray[np.float64]
_LEAST = float(np.finfo(np.float32).tiny)
"""Least probability of a class that may be there, so that only the others have 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Belief:
    """What a request says of the classes before the photo is seen.

    Attributes:
        log_weights: logarithm of each class's prior, −∞ for a class that cannot be there, (K,).
        temperature: of the model.
        prior: its name in the table; None for equally common classes.
        among: labels of the candidates, in the model's order; None for all.
    """

    log_weights: Floats
    temperature: float
    prior: str | None = None
    among: tuple[str, ...] | None = None

    @property
    def ruled_out(self) -> int:
        """Number of classes that cannot be there."""
        return int(np.isneginf(self.log_weights).sum())

    def applied(self, prediction: Prediction) -> Prediction:
        """Return a prediction with the probabilities under this belief."""
        return replace(prediction, probabilities=self._posterior(prediction.logits), ruled_out=self.ruled_out)

    def by_class(self, asked: Question) -> Again:
        """Return the function that puts a question's ranks in the order of this belief, where the graph's differs.

        Args:
            asked: about one image.

        Raises:
            UnknownClass: a rank beyond the classes that may be there.
        """
        possible = len(self.log_weights) - self.ruled_out
        if min(asked.target.min(), asked.versus.min()) < -possible:
            raise UnknownClass(
                f"`rank:` takes a whole number from 1 to {possible}: so many classes may be there.",
                extensions={"nearest": []},
            )

        def again(outputs: Outputs) -> Question | None:
            plain, ranked = (
                np.argsort(-by, kind="stable") for by in (outputs.logits[0], self._posterior(outputs.logits[0]))
            )
            if all(
                (classes_of(codes, plain) == classes_of(codes, ranked)).all() for codes in (asked.target, asked.versus)
            ):
                return None
            return replace(asked, target=classes_of(asked.target, ranked), versus=classes_of(asked.versus, ranked))

        return again

    def _posterior(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return normalised(log_probabilities(logits, self.temperature) + self.log_weights)


def belief_of(prior: str | None, among: Sequence[str], served: ServedModel) -> Belief:
    """Return what a request says of a model's classes.

    Args:
        prior: name of one of the model's priors; None for equally common classes.
        among: the classes that may be there, each a label or `class:INDEX`; empty for all.
        served: the model.

    Raises:
        UnknownPrior: the model has no prior of that name.
        UnknownClass: it has no such class.
        NoClassLeft: the prior is 0 for all classes that may be there.
    """
    manifest = served.manifest
    name = None if prior is None else _name_of(prior, served)
    weights = np.ones(manifest.num_classes) if name is None else served.priors[name].copy()
    candidates = {_candidate(text, number, served) for number, text in enumerate(among, 1)}
    if among:
        weights[[index for index in range(manifest.num_classes) if index not in candidates]] = 0
    if not weights.any():
        raise NoClassLeft(f"The prior `{name}` is 0 for every class of `among`.")
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights)
    labels = tuple(manifest.labels[index] for index in sorted(candidates)) if among else None
    return Belief(log_weights, manifest.temperature, name, labels)


def log_probabilities(logits: npt.NDArray[np.float32], temperature: float) -> Floats:
    """Return the logarithm of the calibrated probabilities: of the logits, since a probability may round to 0.

    Args:
        logits: (…, K).
        temperature: of the model.
    """
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    shifted: Floats = scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True))
    return shifted


def normalised(scores: Floats) -> npt.NDArray[np.float32]:
    """Return probabilities in the ratio of exp(scores), (K,): 0 only where a score is −∞."""
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    return np.where(np.isneginf(scores), 0, np.maximum(shares, _LEAST)).astype(np.float32)


def _candidate(text: str, number: int, served: ServedModel) -> int:
    """Return the class that one `among` names."""
    try:
        code = resolve_target(text, served.manifest)
    except UnknownClass as error:
        raise UnknownClass(f"`among`, number {number}: {error.detail}", extensions=error.extensions) from error
    if code < 0:
        raise UnknownClass(f"`among`, number {number}: a rank names no class here.", extensions={"nearest": []})
    return code


def _name_of(text: str, served: ServedModel) -> str:
    """Return the name of a prior: the same, or one that differs in case alone."""
    names = tuple(served.priors)
    if text in names:
        return text
    folded = [name for name in names if name.casefold() == text.casefold()]
    if len(folded) == 1:
        return folded[0]
    similar = folded or difflib.get_close_matches(text[:MAX_NAME], names, n=NUM_NEAREST, cutoff=0.4)
    detail = "The model has no prior of this name." if names else f"The model {served.name} has no priors."
    raise UnknownPrior(detail, extensions={"nearest": similar[:NUM_NEAREST]})
