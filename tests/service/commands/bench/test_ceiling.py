"""The ceiling: the work that it runs, and its figures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.commands.bench import ceiling
from service.commands.bench.measure import run_ceiling
from service.inference.engine import OnnxEngine
from tests.service.tiny_model import tiny_logits, tiny_model

DECODE_S, RUN_S = 2.0, 3.0


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return the file of the tiny model."""
    path = tmp_path / "1.onnx"
    path.write_bytes(tiny_model())
    return path


class Clock:
    """The clocks of the module `time`, which only the work advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        """Return seconds."""
        return self.now

    process_time = perf_counter


def test_every_image_is_decoded_and_run(model: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that decoding and the model advance by known times, rates and medians are theirs."""
    clock, decoded, logits = Clock(), [], []
    decode, run = ceiling.decode_image, OnnxEngine.run

    def decode_slowly(data: bytes, **options: Any) -> Any:
        clock.now += DECODE_S
        decoded.append(data)
        return decode(data, **options)

    def run_slowly(engine: OnnxEngine, images: Any, question: Any) -> Any:
        clock.now += RUN_S
        outputs = run(engine, images, question)
        logits.append((tiny_logits(np.asarray(images)), outputs.logits))
        return outputs

    monkeypatch.setattr(ceiling, "time", clock)
    monkeypatch.setattr(ceiling, "usable_cores", lambda: 1)
    monkeypatch.setattr(ceiling, "decode_image", decode_slowly)
    monkeypatch.setattr(OnnxEngine, "warm_up", lambda _: None)
    monkeypatch.setattr(OnnxEngine, "run", run_slowly)
    red, blue = photos[0].read_bytes(), photos[2].read_bytes()
    found = ceiling.measure(model, [red, blue], 4 * (DECODE_S + RUN_S))
    assert ceiling.Ceiling(1 / (DECODE_S + RUN_S), DECODE_S + RUN_S, DECODE_S, RUN_S, DECODE_S + RUN_S) == found
    warm_up, alone, together = [red] * 3, [red, blue] * 2, [red, blue] * 2
    assert warm_up + alone + together == decoded
    assert len(decoded) == len(logits)
    for expected, actual in logits:
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_it_is_measured_in_its_own_process(model: Path, photos: list[Path]) -> None:
    """A process of its own returns consistent figures."""
    found = run_ceiling(model, photos[:1], 0.2)
    assert found.image_s >= max(found.decode_s, found.run_s) > 0
    assert found.images_per_s * found.cpu_s <= ceiling.usable_cores() + 0.5
