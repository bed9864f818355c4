""".env.example lists every setting with its default, and every variable that the compose files read."""

import re
from pathlib import Path

import pytest

from service.settings import Settings

COMPOSE_FILES = ["docker-compose.yml", "deploy/compose.gpu.yml"]


@pytest.fixture(scope="module")
def listed(root: Path) -> dict[str, str]:
    """Return the variables of .env.example with their values."""
    lines = (root / ".env.example").read_text().splitlines()
    return dict(match.groups() for line in lines if (match := re.fullmatch(r"# ([A-Z][A-Z0-9_]*)=(.*)", line)))


def test_lists_every_setting_and_no_other(listed: dict[str, str]) -> None:
    """A setting that is added, renamed or dropped must be so here."""
    expected = {f"FIELDMARK_{name.upper()}" for name in Settings.model_fields}
    assert expected == {name for name in listed if name.startswith("FIELDMARK_")}


def test_shows_the_defaults(listed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Taking every # off changes nothing."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"FIELDMARK_{name.upper()}", raising=False)
    expected = Settings()
    for name, value in listed.items():
        if name.startswith("FIELDMARK_"):
            monkeypatch.setenv(name, value)
    assert expected == Settings()


def test_empty_values_stand_for_defaults_that_have_no_text(listed: dict[str, str]) -> None:
    """Only what is None, empty, or a place inside the package is shown without a value."""
    empty = {name for name, value in listed.items() if name.startswith("FIELDMARK_") and not value}
    defaults = {f"FIELDMARK_{name.upper()}": field.default for name, field in Settings.model_fields.items()}
    assert {"FIELDMARK_MODEL"} == {name for name in empty if defaults[name] not in (None, "")}


def test_lists_what_the_compose_files_read(root: Path, listed: dict[str, str]) -> None:
    """Each ${VARIABLE:-default} of the compose files is listed with that default."""
    gpu_only_defaults = {("SERVICE_MEMORY", "8g"), ("TRAIN_MEMORY", "16g")}
    text = "\n".join((root / file).read_text() for file in COMPOSE_FILES)
    read = set(re.findall(r"(?<!\$)\$\{([A-Z_]+):-([^}]*)\}", text)) - gpu_only_defaults
    assert read == {(name, value) for name, value in listed.items() if not name.startswith("FIELDMARK_")}
