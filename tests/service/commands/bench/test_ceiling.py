"""The ceiling, measured itself."""

from pathlib import Path

from service.commands.bench.measure import run_ceiling
from tests.service.tiny_model import tiny_model


def test_ceiling(tmp_path: Path, photos: list[Path]) -> None:
    """The ceiling is measured with the same decode and session, in a process of its own."""
    model = tmp_path / "1.onnx"
    model.write_bytes(tiny_model())
    found = run_ceiling(model, photos[:1], 0.2)
    assert min(found.images_per_s, found.decode_s, found.run_s, found.cpu_s) > 0
    assert found.image_s >= max(found.decode_s, found.run_s)
