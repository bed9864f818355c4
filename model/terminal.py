"""What both commands share at a terminal: options with suggestions, any text on any stream, errors in one line."""

import argparse
import codecs
import contextlib
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

_SIMPLER = str.maketrans({"█": "#", "×": "x", "…": "...", "·": "."})
_ESCAPES = "fieldmark-escapes"
"""Name of the handler of characters that a stream cannot encode."""


class Parser(argparse.ArgumentParser):
    """argparse that reports a misspelt option or command with that command's usage and the nearest name."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse; an unknown argument is an error of the command it was given to, not of the one above."""
        self._given = list(sys.argv[1:] if args is None else args)
        parsed, unknown = super().parse_known_args(self._given, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Print usage, message and suggestions, and exit with 2."""
        hints = [hint for given in getattr(self, "_given", ()) if (hint := self._nearest(given))]
        super().error("; ".join([message, *hints]))

    def _nearest(self, given: str) -> str:
        """Return what an unknown option probably meant; empty where it is known or nothing is near."""
        option = given.partition("=")[0]
        known = [name for name in self._option_string_actions if name.startswith("--")]
        if not option.startswith("--") or option == "--" or any(name.startswith(option) for name in known):
            return ""
        near = difflib.get_close_matches(option, known, n=1)
        return f"did you mean {near[0]} instead of {option}?" if near else ""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            near = difflib.get_close_matches(str(value), map(str, action.choices or ()), n=1)
            if near:
                raise argparse.ArgumentError(action, f"{error.message}; did you mean {near[0]}?") from None
            raise


def run(command: Callable[[], int], refuse: Callable[[str], int]) -> int:
    """Run a command whose output may go anywhere; return its exit code.

    Args:
        command: prints on the standard streams.
        refuse: reports the error in one line; returns the exit code.
    """
    _take_any_text()
    try:
        try:
            return command()
        finally:
            _flush()  # before Python exits, so that a full disk or a closed pipe can be reported
    except BrokenPipeError:
        # The reader closed the pipe (`| head`); Python would report it once more when it closes stdout.
        _discard_output()
        return 0
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            _discard_output()
        return refuse(reason_of(error))
    except KeyboardInterrupt:
        return 130


def reason_of(error: OSError) -> str:
    """Return a file error in one line, with the file's name."""
    reason = error.strerror or str(error)
    if error.strerror:
        reason = f"{reason[:1].lower()}{reason[1:]}"
    named = error.filename is not None and str(error.filename) not in reason
    return one_line(f"{os.fsdecode(error.filename)}: {reason}" if named else reason)


def one_line(text: str) -> str:
    """Return a text without line breaks: even a file's name may contain them."""
    return " ".join(text.split())


def plain(text: str) -> str:
    """Return a text for people: bars and signs in ASCII where standard output cannot encode them."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return text.translate(_SIMPLER)
    return text


def _take_any_text() -> None:
    """Make the standard streams escape what they cannot encode, names of files that are not UTF-8 included."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller: `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_ESCAPES)


def _escape(error: UnicodeError) -> tuple[str, int]:
    r"""Write characters as `\u00e9`: readable, and in JSON still the same text."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wide = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in zip(wide[::2], wide[1::2], strict=True)), error.end


codecs.register_error(_ESCAPES, _escape)


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"the output cannot be written: {reason_of(error)}") from error


def _discard_output() -> None:
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
