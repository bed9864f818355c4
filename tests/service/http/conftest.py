"""A server that collects feedback, for its address and for the page."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.running import Running, running, tiny_settings
from tests.service.tiny_model import marked_manifest, tiny_model


@pytest.fixture(scope="module")
def collecting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    """Return a server that collects feedback on a model with novelty, and its file."""
    folder = tmp_path_factory.mktemp("models")
    file = tmp_path_factory.mktemp("feedback") / "feedback.jsonl"
    settings = tiny_settings(folder, feedback_file=file)
    (folder / "tiny" / "1.onnx").write_bytes(tiny_model(marked_manifest()))
    with running(settings) as server:
        yield server, file
