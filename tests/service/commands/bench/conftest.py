"""Photos to send to a server."""

from pathlib import Path

import pytest

from tests.service.conftest import encoded


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Return a good photo and a corrupt one."""
    good, bad = tmp_path / "good.png", tmp_path / "bad.jpg"
    good.write_bytes(encoded("red"))
    bad.write_bytes(encoded("red", (64, 64), "JPEG")[:200])
    return [good, bad]
