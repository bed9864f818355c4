"""Camtrap DP: a deployment's photos as a data package that camera-trap software reads.

The rows are kept as JSON Lines while the command runs, each with the time and the type of its photo; at the end they
become the tables `media`, `observations` and `deployments`, and `datapackage.json`. A photo without a time cannot be
in these tables, which need one.

Source: https://camtrap-dp.tdwg.org, version 1.0.2.
"""

import csv
import io
import json
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from model.files import replacing, write_whole
from model.photo.errors import PhotoError
from model.photo.formats import open_file, sniff
from model.photo.headers import directory
from service.errors import InvalidOption
from service.http.answers import Answer

ROWS = "photos.jsonl"
"""Name of the table of rows in the package's folder."""
_SCHEMAS = "https://raw.githubusercontent.com/tdwg/camtrap-dp/1.0.2"
_PATH = re.compile(r"(?=^[^./~])(^((?!\.{2}).)*$).*")
"""Paths that the standard allows."""
_EXIF_FOLDER, _TAKEN, _OFFSET = 0x8769, 0x9003, 0x9011
_WITHOUT_ANIMAL = {
    "blank": "blank", "empty": "blank", "human": "human", "person": "human", "homo sapiens": "human",
    "vehicle": "vehicle",
}  # fmt: skip
_MEDIA = ("mediaID", "deploymentID", "timestamp", "filePath", "filePublic", "fileName", "fileMediatype")
_OBSERVATIONS = (
    "observationID", "deploymentID", "mediaID", "eventStart", "eventEnd", "observationLevel", "observationType",
    "scientificName", "classificationMethod", "classifiedBy", "classificationProbability",
)  # fmt: skip
_DEPLOYMENTS = ("deploymentID", "latitude", "longitude", "deploymentStart", "deploymentEnd")


@dataclass(frozen=True)
class Deployment:
    """Where and when the photos were taken.

    Attributes:
        name: of the deployment, its ID.
        zone: of the camera's clock.
        place: latitude and longitude, degrees; None where unknown.
    """

    name: str
    zone: tzinfo
    place: tuple[float, float] | None = None


@dataclass(frozen=True)
class Package:
    """What a package holds.

    Attributes:
        photos: in its tables.
        untimed: names of the first photos without a time.
        num_untimed: how many these are.
        unnamed: names of the first photos whose paths the standard does not allow.
        num_unnamed: how many these are.
    """

    photos: int
    untimed: Sequence[str]
    num_untimed: int
    unnamed: Sequence[str]
    num_unnamed: int


def deployment_of(name: str | None, zone: str | None, place: str | None) -> Deployment:
    """Return a deployment from the command's options.

    Raises:
        InvalidOption: one is missing, or has no valid value.
    """
    if not name or not zone:
        raise InvalidOption(
            "`--format camtrap-dp` needs `--deployment ID` and `--timezone ZONE` of the camera's clock."
        )
    if place is None:
        return Deployment(name, _zone(zone))
    try:
        latitude, longitude = map(float, place.split(","))
    except ValueError:
        latitude, longitude = 91.0, 0.0
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        raise InvalidOption(f"--location {place}: two numbers in degrees, LATITUDE,LONGITUDE.")
    return Deployment(name, _zone(zone), (latitude, longitude))


def facts_of(zone: tzinfo) -> Callable[[bytes], Answer]:
    """Return what reads a photo's time and type for its row."""

    def facts(data: bytes) -> Answer:
        taken, format_ = taken_at(data, zone), sniff(data)
        return {
            "timestamp": taken.isoformat(timespec="seconds") if taken else None,
            "media_type": f"image/{format_.lower()}" if format_ else None,
        }

    return facts


def taken_at(data: bytes, zone: tzinfo) -> datetime | None:
    """Return when a photo was taken, by EXIF's `DateTimeOriginal`; None where it does not say.

    Args:
        data: of the file.
        zone: of the camera's clock, where EXIF's `OffsetTimeOriginal` does not say.
    """
    try:
        block = _exif_of(data)
        order = "<" if block[:1] == b"I" else ">"
        pointer = next(value[:4] for tag, _, _, value in directory(block) if tag == _EXIF_FOLDER)
        texts = {}
        for tag, kind, count, value in directory(block[:4] + pointer + block[8:]):
            if tag in (_TAKEN, _OFFSET) and kind == 2 and count <= 32:
                (at,) = struct.unpack(f"{order}L", value[:4])
                texts[tag] = (value[:count] if count <= 4 else block[at : at + count]).rstrip(b"\0 ").decode("ascii")
        taken = datetime.strptime(texts[_TAKEN], "%Y:%m:%d %H:%M:%S")
        offset = texts.get(_OFFSET, "")
        return taken.replace(tzinfo=_offset(offset) if offset else zone)
    except (StopIteration, KeyError, ValueError, struct.error, PhotoError):
        return None
    except Exception:  # Pillow raises many kinds on broken headers; the row says what is wrong with the photo
        return None


def _exif_of(data: bytes) -> bytes:
    """Return a photo's EXIF block without its prefix; empty where it has none."""
    format_ = sniff(data)
    if format_ == "TIFF":
        return data
    if format_ == "PNG":  # it may stand behind the pixels
        before, found, block = data.partition(b"eXIf")
        return block[: int.from_bytes(before[-4:], "big")] if found else b""
    exif = open_file(data, format_).info.get("exif") if format_ else None
    return exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b""


def write_package(folder: Path, deployment: Deployment, model: Answer) -> Package:
    """Write the tables and the description of a package from its rows.

    Args:
        folder: of the package, with the rows.
        deployment: of all photos.
        model: that classified them; name, version and SHA-256.

    Raises:
        WriteError: the disk is full, or gone.
    """
    first, last, photos = "", "", 0
    names: set[str] = set()
    untimed: list[str] = []
    unnamed: list[str] = []
    num_untimed = num_unnamed = 0
    classified_by = f"fieldmark: {model['name']} {model['version']} (SHA-256 {model['sha256']})"
    with replacing(folder / "media.csv") as media, replacing(folder / "observations.csv") as observations:
        media.write(_line(_MEDIA))
        observations.write(_line(_OBSERVATIONS))
        for row in _good_rows(folder / ROWS):
            path, time = row["path"], row["timestamp"]
            if time is None:
                num_untimed += 1
                untimed += [path] if len(untimed) < 5 else []
                continue
            if not _PATH.fullmatch(path):
                num_unnamed += 1
                unnamed += [path] if len(unnamed) < 5 else []
                continue
            photos += 1
            # Of all zones' times the first and the last, as moments.
            first = min(first or time, time, key=datetime.fromisoformat)
            last = max(last or time, time, key=datetime.fromisoformat)
            media_id, best = f"{deployment.name}/{path}", row["predictions"][0]
            media.write(
                _line([media_id, deployment.name, time, path, "false", path.rsplit("/", 1)[-1], row["media_type"]])
            )
            kind = _WITHOUT_ANIMAL.get(best["label"].lower(), "animal")
            kind = "unknown" if row.get("accepted") is False else kind
            name = best["label"] if kind == "animal" else ""
            names |= {name} - {""}
            observations.write(
                _line([
                    f"{media_id}#1", deployment.name, media_id, time, time, "media", kind, name, "machine",
                    classified_by, best["probability"],
                ])
            )  # fmt: skip
    place: Sequence[Any] = deployment.place or ("", "")
    write_whole(
        folder / "deployments.csv",
        _line(_DEPLOYMENTS) + (_line([deployment.name, *place, first, last]) if first else b""),
    )
    description = _description(deployment, first, last, sorted(names))
    write_whole(folder / "datapackage.json", json.dumps(description, indent=2, ensure_ascii=False) + "\n")
    return Package(photos, untimed, num_untimed, unnamed, num_unnamed)


def _description(deployment: Deployment, first: str, last: str, names: Sequence[str]) -> Answer:
    """Return the description of a package."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    point = None
    if deployment.place is not None:
        point = {"type": "Point", "coordinates": list(reversed(deployment.place))}
    return {
        "profile": f"{_SCHEMAS}/camtrap-dp-profile.json",
        "created": now,
        "contributors": [{"title": "fieldmark", "role": "contributor"}],
        "project": {
            "title": deployment.name,
            "samplingDesign": "opportunistic",
            "captureMethod": ["activityDetection"],
            "individualAnimals": False,
            "observationLevel": ["media"],
        },
        "spatial": {"type": "Feature", "geometry": point, "properties": {}},
        "temporal": {"start": (first or now)[:10], "end": (last or now)[:10]},
        "taxonomic": [{"scientificName": name} for name in names],
        "resources": [
            {
                "name": name,
                "path": f"{name}.csv",
                "profile": "tabular-data-resource",
                "format": "csv",
                "mediatype": "text/csv",
                "encoding": "utf-8",
                "schema": f"{_SCHEMAS}/{name}-table-schema.json",
            }
            for name in ("deployments", "media", "observations")
        ],
    }


def _good_rows(path: Path) -> Iterator[Answer]:
    with path.open("rb") as file:
        yield from (row for row in map(json.loads, file) if "code" not in row)


def _line(cells: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _zone(text: str) -> tzinfo:
    try:
        return _offset(text) if text[0] in "+-Z" else ZoneInfo(text)
    except (ValueError, ZoneInfoNotFoundError, OSError) as error:
        raise InvalidOption(f"--timezone {text}: neither a name as Europe/Berlin nor an offset as +02:00.") from error


def _offset(text: str) -> tzinfo:
    if text == "Z":
        return UTC
    found = re.fullmatch(r"([+-])(\d\d):?(\d\d)", text)
    if found is None:
        raise ValueError(text)
    minutes = 60 * int(found[2]) + int(found[3])
    return timezone(timedelta(minutes=minutes if found[1] == "+" else -minutes))
