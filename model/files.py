"""Write files whole or not at all, under a temporary name first, then renamed over the old file; hold them alone."""

import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class WriteError(OSError):
    """A file could not be written; the one before it, if any, is untouched."""

    def __init__(self, path: Path, reason: OSError | ValueError) -> None:
        why = getattr(reason, "strerror", None) or str(reason)
        super().__init__(f"{path} could not be written ({why}); the file before it is untouched")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that atomically and durably replaces a path at the end, unless the body raises.

    A crash or a full disk leaves the old file whole. The temporary name is random: several processes may
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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a folder, or a file, which is made where there is none, against other processes.

    Raises:
        BlockingIOError: another process holds it.
        OSError: it cannot be opened.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with this process, however it ends
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # processes that were forked meanwhile hold copies of it
        os.close(descriptor)


def check_target(path: Path) -> None:
    """Raise unless a file could be written here now: checked before work that takes minutes, not after it.

    Raises:
        WriteError: it is a folder, or its folder cannot be made or written to, or the disk is full.
    """
    _check(path, path.parent)


def check_folder(path: Path) -> None:
    """Raise unless files could be written into this folder now; it need not exist.

    Raises:
        WriteError: it is a file, it cannot be made or written to, or the disk is full.
    """
    _check(path, path)


def _check(target: Path, folder: Path) -> None:
    try:
        if target != folder and target.is_dir():
            raise OSError("it is a folder")
        there = next((place for place in (folder, *folder.absolute().parents) if os.path.lexists(place)), Path())
        if not there.is_dir():
            raise OSError(f"{there} is a file, not a folder")
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(bytes(4096))
            probe.flush()
            os.fsync(probe.fileno())
    except (OSError, ValueError) as error:
        raise WriteError(target, error) from error


def write_whole(path: Path, content: bytes | memoryview | str) -> None:
    """Write a file whole or not at all; text as UTF-8.

    Raises:
        WriteError: it could not be written; the old file, if any, is untouched.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: it is a change of the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
