"""One line an event, as JSON for machines or aligned text for people.

Standard library only: uvicorn and ONNX Runtime's callers log through it anyway, and a second logging system would
replace one formatter of twenty lines. Fields travel in `extra={"fields": {…}}`.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from pydantic_core import PydanticSerializationError, to_json

from service.settings import Settings

_NOISY = ("PIL", "asyncio", "uvicorn.access")


def configure_logs(settings: Settings, stream: TextIO | None = None) -> None:
    """Send all logs of the process to one stream, in one format; called once at start-up.

    Args:
        settings: `log_format` and `log_level`.
        stream: of the output; stderr by default, since commands print their results on stdout.
    """
    target = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(target)
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not target.isatty())
    handler.setFormatter(JsonFormatter() if as_json else ConsoleFormatter())
    # Our lines hold none of these, and every record would look them up.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in _NOISY:
        # These log what clients send, byte for byte.
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            entry["exception"] = self.formatException(record.exc_info)
        try:
            return to_json(entry, fallback=str).decode()
        except PydanticSerializationError:  # e.g. a file name that is not valid UTF-8
            return json.dumps(entry, default=str, separators=(",", ":"))


class ConsoleFormatter(logging.Formatter):
    """Time, level and event, then `name=value`; values are quoted, so that no request can forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        fields = " ".join(f"{name}={_shown(value)}" for name, value in getattr(record, "fields", {}).items())
        line = f"{time} {record.levelname.lower():7} {record.getMessage()} {fields}".rstrip()
        if record.exc_info and record.exc_info[1] is not None:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _shown(value: Any) -> str:
    text = str(value)
    plain = text.isprintable() and text and not set(text) & set(' "=')
    return text if plain else json.dumps(text)
