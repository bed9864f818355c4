"""Files written whole or not at all: under another name first, then renamed over the old one."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class WriteError(OSError):
    """A file could not be written; the one before it, if any, is untouched."""

    def __init__(self, path: Path, reason: OSError) -> None:
        super().__init__(f"{path} could not be written ({reason}); the file before it is untouched")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes a path's place at the end, at once and for good, unless the body raises.

    A crash or a full disk leaves the old file whole. The name to write under is random: several processes may
    write the same path, and the last one wins.

    Args:
        path: of the file; its folder must exist.

    Raises:
        WriteError: it could not be written.
    """
    # Hidden, and without the suffix: it is not listed among models or stores.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, WriteError):
            raise WriteError(path, error) from error
        raise


def write_whole(path: Path, content: bytes | memoryview | str) -> None:
    """Write a file whole or not at all; text as UTF-8.

    Raises:
        WriteError: it could not be written; the old file, if any, is untouched.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def _sync_folder(folder: Path) -> None:
    """Make a rename last: it is a change of the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
