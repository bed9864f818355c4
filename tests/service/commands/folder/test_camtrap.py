"""`fieldmark classify PATH… --format camtrap-dp`: a data package that Camtrap DP's own schemas accept."""

import csv
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import jsonschema
import pytest
import referencing
from PIL import ExifTags, Image

from service.cli import main
from service.commands.folder.camtrap import taken_at

OPTIONS = ("--format", "camtrap-dp", "--deployment", "D1", "--timezone", "Europe/Berlin", "--out", "package")


def add_photo(path: Path, taken: str | None, offset: str | None = None) -> None:
    """Write a red photo with EXIF's time."""
    exif = Image.Exif()
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    if taken:
        inner[ExifTags.Base.DateTimeOriginal] = taken
    if offset:
        inner[ExifTags.Base.OffsetTimeOriginal] = offset
    Image.new("RGB", (40, 20), (250, 10, 10)).save(path, exif=exif.tobytes())


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """Return a folder of a camera's photos: three with a time, one without, one broken, one with a forbidden path."""
    folder = tmp_path / "trap"
    folder.mkdir()
    add_photo(folder / "1.jpg", "2026:07:01 23:30:00")
    add_photo(folder / "2.jpg", "2026:01:01 00:00:00", "-05:00")
    add_photo(folder / "3.png", "2026:01:01 12:00:00")
    add_photo(folder / "4.jpg", None)
    add_photo(folder / "a..b.jpg", "2026:01:01 12:00:00")
    (folder / "5.jpg").write_bytes((folder / "1.jpg").read_bytes()[:-200])
    return folder


def faults(table: Path, schema: dict[str, Any]) -> list[str]:
    """Return what a table's schema does not allow."""
    found = []
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    fields = {field["name"]: field for field in schema["fields"]}
    found += [f"column {name}" for name in (rows[0] if rows else {}) if name not in fields]
    for name, field in fields.items():
        limits = field.get("constraints", {})
        values = [row.get(name) or "" for row in rows]
        if limits.get("unique") and len(set(values)) < len(values):
            found.append(f"{name} is not unique")
        for value in values:
            if not value:
                found += [f"{name} is missing"] if limits.get("required") else []
                continue
            number = float(value) if field["type"] in ("number", "integer") else 0.0
            fits = (
                re.search(limits.get("pattern", ""), value) is not None
                and value in limits.get("enum", [value])
                and limits.get("minimum", number) <= number <= limits.get("maximum", number)
                and (field["type"] != "boolean" or value in ("true", "false"))
            )
            if field["type"] == "datetime":
                datetime.strptime(value, field["format"])
            found += [] if fits else [f"{name}: {value}"]
    return found


def test_a_package_is_valid(
    trap: Path, model: str, here: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against the profile and the tables' schemas; what cannot be in it is counted and named, and it goes on."""
    arguments = ["classify", "trap", *OPTIONS, "--location", "52.5,13.4", "--model", model]
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert "package: 6 photos, 1 of them bad\n" == shown.out
    assert [
        "1 photos without a time in EXIF are in photos.jsonl alone: 4.jpg",
        "1 photos with a path that Camtrap DP does not allow are in photos.jsonl alone: a..b.jpg",
    ] == shown.err.splitlines()
    schemas = data_dir / "schemas" / "camtrap-dp"
    for name in ("deployments", "media", "observations"):
        schema = json.loads((schemas / f"{name}-table-schema.json").read_text())
        assert [] == faults(Path("package") / f"{name}.csv", schema)
    anything = referencing.Resource({}, referencing.jsonschema.DRAFT4)
    profile = json.loads((schemas / "camtrap-dp-profile.json").read_text())
    registry: Any = referencing.Registry(retrieve=lambda uri: anything)  # those of other standards are not at hand
    package = json.loads(Path("package/datapackage.json").read_text())
    jsonschema.Draft4Validator(profile, registry=registry).validate(package)
    media = list(csv.DictReader(Path("package/media.csv").read_text().splitlines()))
    assert ["2026-07-01T23:30:00+02:00", "2026-01-01T00:00:00-05:00", "2026-01-01T12:00:00+01:00"] == [
        row["timestamp"] for row in media
    ]
    (deployment,) = csv.DictReader(Path("package/deployments.csv").read_text().splitlines())
    assert (media[1]["timestamp"], media[0]["timestamp"]) == (
        deployment["deploymentStart"],
        deployment["deploymentEnd"],
    )
    observations = list(csv.DictReader(Path("package/observations.csv").read_text().splitlines()))
    assert ({"Red bird"}, [row["mediaID"] for row in media]) == (
        {row["scientificName"] for row in observations},
        [row["mediaID"] for row in observations],
    )
    add_photo(trap / "6.jpg", "2026:01:02 12:00:00")
    assert main(arguments) == 1
    assert 5 == len(Path("package/media.csv").read_text().splitlines())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--format", "camtrap-dp", "--out", "package"), "needs `--deployment ID` and `--timezone ZONE`"),
        (("--format", "camtrap-dp", "--deployment", "D1", "--timezone", "Mars", "--out", "p"), "--timezone Mars"),
        ((*OPTIONS, "--location", "91,0"), "--location 91,0"),
        ((*OPTIONS[:-2],), "needs `--out DIR`"),
    ],
)
def test_what_a_package_needs(
    trap: Path, here: Path, options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, before the model is loaded."""
    assert main(["classify", "trap", *options, "--model", "none.onnx"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert ["trap"] == [path.name for path in here.iterdir()]


def test_times_of_photos(trap: Path) -> None:
    """The camera's clock in its zone, unless EXIF names the offset; none where EXIF is absent or broken."""
    berlin = ZoneInfo("Europe/Berlin")
    times = {path.name: taken_at(path.read_bytes(), berlin) for path in sorted(trap.iterdir())}
    assert datetime(2026, 7, 1, 21, 30, tzinfo=UTC) == times["1.jpg"]
    assert datetime(2026, 1, 1, 5, tzinfo=UTC) == times["2.jpg"]
    assert times["4.jpg"] is None
    data = (trap / "2.jpg").read_bytes()
    for end in range(0, len(data), 7):
        assert taken_at(data[:end], berlin) in (None, times["2.jpg"], datetime(2026, 1, 1, tzinfo=berlin))
