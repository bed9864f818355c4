"""A model and a photo for the commands."""

import logging
from collections.abc import Iterator

import pytest
from PIL import Image

from tests.service.tiny_model import marked_manifest, tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a tiny model file."""
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    path.write_bytes(tiny_model())
    return str(path)


@pytest.fixture(scope="session")
def marked_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a tiny model file with marks."""
    path = tmp_path_factory.mktemp("model") / "marked.onnx"
    path.write_bytes(tiny_model(marked_manifest()))
    return str(path)


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a red picture."""
    path = tmp_path_factory.mktemp("photos") / "red.png"
    Image.new("RGB", (40, 20), (250, 10, 10)).save(path)
    return str(path)


@pytest.fixture(autouse=True)
def untouched_logs() -> Iterator[None]:
    """Restore the level of the logger that the commands silence."""
    logger = logging.getLogger("service.inference.models")
    level = logger.level
    yield
    logger.setLevel(level)
