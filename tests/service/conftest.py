"""Servers that many tests of the service share."""

import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from service.settings import Settings
from tests.service.running import PATIENCE_S, Running, running, tiny_settings
from tests.service.tiny_model import marked_manifest, tiny_model


@pytest.fixture(scope="session")
def tiny_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return a server of the tiny model."""
    with running(tiny_settings(tmp_path_factory.mktemp("models"))) as server:
        yield server


@pytest.fixture(scope="session")
def marked_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return a server of the tiny model with marks."""
    folder = tmp_path_factory.mktemp("marked")
    settings = tiny_settings(folder)
    (folder / "tiny" / "1.onnx").unlink()
    (folder / "tiny" / "2.onnx").write_bytes(tiny_model(marked_manifest()))
    with running(settings) as server:
        yield server


@pytest.fixture(scope="session")
def bundled_server() -> Iterator[Running]:
    """Return a server of the bundled model."""
    with running(Settings(device="cpu", request_timeout_ms=PATIENCE_S * 1000)) as server:
        yield server


@pytest.fixture
def marked_client(marked_server: Running) -> Iterator[httpx.Client]:
    """Return a client of the server whose model has marks."""
    with marked_server.client() as client:
        yield client


@pytest.fixture(scope="session")
def spotted() -> bytes:
    """Return a red photo, 160×80 pixels, whose reddest place is around (115, 5)."""
    pixels = np.full((80, 160, 3), (190, 0, 0), np.uint8)
    pixels[0:10, 110:120] = 255, 0, 0
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def client(tiny_server: Running) -> Iterator[httpx.Client]:
    """Return a client of the tiny model's server."""
    with tiny_server.client() as client:
        yield client


def encoded(colour: str = "red", size: tuple[int, int] = (12, 10), image_format: str = "PNG") -> bytes:
    """Return a plain picture as a file."""
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, image_format)
    return stream.getvalue()


@pytest.fixture(scope="session")
def red_png() -> bytes:
    """Return a small red picture, which the tiny model takes for a `Red bird`."""
    return encoded("red")


@pytest.fixture(scope="session")
def blue_jpeg() -> bytes:
    """Return a small blue picture, which the tiny model takes for a `Blue bird`."""
    return encoded("blue", image_format="JPEG")
