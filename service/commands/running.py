"""What the commands that answer photos share: a runtime for as long as they run, and the pictures they can write."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.inference.runtime import Runtime
from service.settings import Settings

PICTURE_TYPES = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
"""Media type of a picture by the suffix of its name."""


@asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[Runtime]:
    """Run a runtime for the duration of a command."""
    # The user reads its reasons in ModelRejected.
    logging.getLogger("service.inference.models").setLevel(logging.CRITICAL)
    runtime = Runtime(settings)
    await runtime.start()
    try:
        await runtime.models.wait_ready()
        yield runtime
    finally:
        await runtime.stop()
