"""The engine of the tiny model, for all tests of this room."""

import pytest

from service.inference.engine import OnnxEngine
from service.settings import Settings
from tests.service.tiny_model import tiny_model

ON_CPU = Settings(device="cpu", cpu_runs=3)


@pytest.fixture(scope="session")
def tiny() -> OnnxEngine:
    """Return a warm engine of the tiny model."""
    engine = OnnxEngine(tiny_model(), ON_CPU)
    engine.warm_up()
    return engine
