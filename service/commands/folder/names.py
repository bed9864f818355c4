r"""Names of files as text: any name in one line, and back.

A name on disk is bytes. Those that are not UTF-8, control characters and line breaks are written as `\xE9`, a
backslash as `\\`, so that one row is one line, the file stays valid UTF-8, and no name is lost.
"""

import os
import re

_SPECIAL = re.compile(r"[\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ESCAPED = re.compile(rb"\\(?:\\|x[0-9A-F]{2})")


def to_text(name: str) -> str:
    """Return a file's name, as Python has it, in printable characters."""
    return _SPECIAL.sub(_escape, name) if _SPECIAL.search(name) else name


def from_text(text: str) -> str:
    """Return the name that `to_text` was given."""
    return os.fsdecode(_ESCAPED.sub(_unescape, text.encode()))


def _escape(found: re.Match[str]) -> str:
    character = found.group()
    if character == "\\":
        return "\\\\"
    return "".join(f"\\x{byte:02X}" for byte in os.fsencode(character))


def _unescape(found: re.Match[bytes]) -> bytes:
    escape = found.group()
    return b"\\" if escape == b"\\\\" else bytes([int(escape[2:], 16)])
