"""A model and a photo for the commands."""

import pytest
from PIL import Image

from tests.service.tiny_model import tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a tiny model file."""
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    path.write_bytes(tiny_model())
    return str(path)


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a red picture."""
    path = tmp_path_factory.mktemp("photos") / "red.png"
    Image.new("RGB", (40, 20), (250, 10, 10)).save(path)
    return str(path)
