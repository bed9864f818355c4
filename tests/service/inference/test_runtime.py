"""One running service: its parts and its state."""

from pathlib import Path

import pytest

from service.errors import NotReady
from service.inference.engine import Question
from service.inference.runtime import Runtime
from service.settings import Settings
from tests.service.conftest import encoded
from tests.service.tiny_model import tiny_model


@pytest.mark.anyio
async def test_it_is_ready_between_its_first_model_and_its_stop(tmp_path: Path) -> None:
    """Ready once a model is warm, until it drains; after the stop no work is accepted and no model is held."""
    path = tmp_path / "tiny" / "1.onnx"
    path.parent.mkdir()
    path.write_bytes(tiny_model())
    runtime = Runtime(Settings(model=tmp_path, device="cpu"))
    assert not runtime.ready
    await runtime.start()
    await runtime.models.wait_ready()
    assert runtime.ready
    served = runtime.models.get()
    question = Question.about(served.manifest)
    assert 0 == (await runtime.predictor.predict(served, encoded("red"), question)).explained_class
    runtime.draining = True
    assert not runtime.ready
    assert 2 == (await runtime.predictor.predict(served, encoded("blue"), question)).explained_class
    await runtime.stop()
    assert [] == runtime.models.served()
    with pytest.raises(NotReady):
        await runtime.predictor.predict(served, encoded("red"), question)


def test_limits_of_photos_are_the_settings() -> None:
    """Admission and decoder have the same limits."""
    limits = Runtime(Settings(device="cpu", max_pixels=9, formats="PNG,GIF", max_decode_bytes=2**21)).limits
    assert (9, {"PNG", "GIF"}, 2**21) == (limits.max_pixels, limits.formats, limits.max_decode_bytes)
