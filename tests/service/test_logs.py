"""One line an event, readable by machines and by people, and nothing of an image in it."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.logs import ConsoleFormatter, JsonFormatter, configure_logs
from service.settings import Settings
from tests.service.running import running, tiny_settings


@pytest.fixture
def untouched_logs() -> Iterator[None]:
    """Restore the logging of the process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def record(message: str, **fields: object) -> logging.LogRecord:
    """Return a record as the service makes them."""
    made = logging.LogRecord("fieldmark.access", logging.INFO, "", 0, message, None, None)
    made.fields = fields
    return made


def test_json_line() -> None:
    """A JSON line holds time, level, event and the fields."""
    entry = json.loads(JsonFormatter().format(record("request", status=200, label="Lazuli Bunting")))
    assert ("info", "request", 200, "Lazuli Bunting") == (
        entry["level"],
        entry["event"],
        entry["status"],
        entry["label"],
    )
    assert entry["time"].endswith("+00:00")


def test_json_line_of_what_is_no_text() -> None:
    """A file name that is not UTF-8 is logged all the same."""
    entry = json.loads(JsonFormatter().format(record("model \udcff is refused", folder=Path("/models"))))
    assert ("model \udcff is refused", "/models") == (entry["event"], entry["folder"])


def test_console_line_cannot_be_forged() -> None:
    """Values with spaces or line ends are quoted, so that one event stays one line."""
    line = ConsoleFormatter().format(record("request", route="/classify", label="a\nb status=200"))
    assert 'route=/classify label="a\\nb status=200"' in line
    assert 1 == len(line.splitlines())


@pytest.mark.usefixtures("untouched_logs")
@pytest.mark.parametrize(("form", "is_json"), [("json", True), ("auto", True), ("console", False)])
def test_forms(form: str, is_json: bool) -> None:
    """`auto` is JSON unless on a terminal."""
    stream = io.StringIO()
    configure_logs(Settings(log_format=form), stream)  # type: ignore[arg-type]
    logging.getLogger("fieldmark.service").info("hello")
    assert is_json == stream.getvalue().startswith("{")


@pytest.mark.usefixtures("untouched_logs")
def test_levels() -> None:
    """Events below the level are not written, nor what libraries log about the bytes that clients send."""
    stream = io.StringIO()
    configure_logs(Settings(log_level="warning"), stream)
    logging.getLogger("fieldmark.access").info("quiet")
    logging.getLogger("PIL").warning("bytes of a client")
    logging.getLogger("fieldmark.service").warning("loud")
    assert ["loud"] == [json.loads(line)["event"] for line in stream.getvalue().splitlines()]


@pytest.mark.usefixtures("untouched_logs")
def test_one_line_a_request(tmp_path: Path, red_png: bytes) -> None:
    """Each request has one line with id, route, status, sizes, timings, model and class, and none of the image."""
    stream = io.StringIO()
    configure_logs(Settings(log_format="json"), stream)
    with running(tiny_settings(tmp_path)) as server, server.client() as client:
        client.post("/classify", content=red_png, headers={"Content-Type": "image/png", "X-Request-Id": "one"})
        client.post("/explain", content=b"\x89PNG junk", headers={"Content-Type": "image/png", "X-Request-Id": "two"})
        client.post("/classify", files=[("file", red_png)] * 2, headers={"X-Request-Id": "three"})
    entries = [json.loads(line) for line in stream.getvalue().splitlines()]
    one, two, three = (entry for entry in entries if entry["event"] == "request")
    assert ("one", "/classify", "POST", 200) == (one["request_id"], one["route"], one["method"], one["status"])
    assert ("tiny/1", "Red bird", len(red_png)) == (one["model"], one["label"], one["bytes_in"])
    assert {"duration_ms", "decode_ms", "queue_ms", "infer_ms", "bytes_out"} <= set(one)
    assert ("/explain", 415, "unsupported_image_type") == (two["route"], two["status"], two["problem"])
    assert 2 == three["images"]
    assert "PNG" not in json.dumps(entries)
