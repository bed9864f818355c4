"""Photos to send to a server."""

from pathlib import Path

import pytest

from tests.service.conftest import encoded


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Return a good photo, a corrupt one and another good one."""
    good, bad, other = tmp_path / "good.png", tmp_path / "bad.jpg", tmp_path / "other.png"
    other.write_bytes(encoded("blue"))
    good.write_bytes(encoded("red"))
    bad.write_bytes(encoded("red", (64, 64), "JPEG")[:200])
    return [good, bad, other]
