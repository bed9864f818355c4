"""What the commands that answer photos share: a runtime, what may be there, and the pictures they can write."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from service.decision.beliefs import Belief, belief_of
from service.decision.sets import sets_of
from service.http.api.schemas import ClassifyOptions
from service.inference.engine import Question
from service.inference.predictor import Prediction, Predictor
from service.inference.runtime import Runtime
from service.inference.served import ServedModel
from service.settings import Settings

PICTURE_TYPES = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
"""Media type of a picture by the suffix of its name."""


@asynccontextmanager
async def started(settings: Settings, *, once: bool = True) -> AsyncIterator[Runtime]:
    """Run a runtime for the duration of a command.

    Args:
        settings: model and device.
        once: only the model that answers by default, verified only where it is new to this machine.
    """
    # The user reads its reasons in ModelRejected.
    logging.getLogger("service.inference.models").setLevel(logging.CRITICAL)
    runtime = Runtime(settings, once=once)
    await runtime.start()
    try:
        await runtime.models.wait_ready()
        yield runtime
    finally:
        await runtime.stop()


def stated(options: ClassifyOptions, served: ServedModel) -> Belief | None:
    """Return what the options say of the classes that may be there; None where they say nothing.

    Raises:
        NoSets: the model has no calibration for the sets that are requested.
        UnknownPrior: it has no prior of that name; UnknownClass and NoClassLeft likewise.
    """
    if options.coverage is not None:
        sets_of(served.manifest)
    says = options.prior is not None or options.among
    return belief_of(options.prior, options.among, served) if says else None


async def predict(
    predictor: Predictor,
    served: ServedModel,
    data: bytes,
    question: Question,
    belief: Belief | None,
    *,
    by_rank: bool,
    **keywords: Any,
) -> Prediction:
    """Return the prediction for a photo, with what may be there taken into account.

    Args:
        predictor: of the runtime.
        served: the model.
        data: the photo's bytes.
        question: about it.
        belief: of what may be there; None for nothing.
        by_rank: whether maps or marks are requested, whose ranks follow the belief.
        keywords: further ones of `Predictor.predict`.
    """
    again = belief.by_class(question) if belief is not None and by_rank else None
    prediction = await predictor.predict(served, data, question, again=again, **keywords)
    return prediction if belief is None else belief.applied(prediction)
