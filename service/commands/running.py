"""What the commands that answer photos share: a runtime, what may be there, and the pictures they can write."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.decision.beliefs import Belief, belief_of
from service.http.api.schemas import ClassifyOptions
from service.inference.runtime import Runtime
from service.inference.served import ServedModel
from service.settings import Settings

PICTURE_TYPES = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
"""Media type of a picture by the suffix of its name."""


@asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[Runtime]:
    """Run a runtime for the duration of a command."""
    # The user reads its reasons in ModelRejected.
    logging.getLogger("service.inference.models").setLevel(logging.CRITICAL)
    runtime = Runtime(settings, once=True)
    await runtime.start()
    try:
        await runtime.models.wait_ready()
        yield runtime
    finally:
        await runtime.stop()


def stated(options: ClassifyOptions, served: ServedModel) -> Belief | None:
    """Return what the options say of the classes that may be there; None where they say nothing."""
    says = options.prior is not None or options.among
    return belief_of(options.prior, options.among, served) if says else None
