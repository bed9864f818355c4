"""Where a table's files are: a folder of this machine, or an address by fsspec."""

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from model.files import replacing
from service.commands.folder.remote import connect


class Store(Protocol):
    """A place for files; names are relative to it."""

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted; none where it does not exist."""

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""

    def read(self, name: str) -> IO[bytes]:
        """Open a file."""

    def replacing(self, name: str) -> Any:
        """Return a context with a file that replaces another at its end, whole."""

    def remove(self, name: str) -> None:
        """Delete a file, or an empty folder; one that is not there is no error."""


class LocalStore:
    """A folder of this machine.

    Args:
        folder: must exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted, without those that are not complete."""
        place = self._folder / folder
        return sorted(path.name for path in place.iterdir() if path.name[0] != ".") if place.is_dir() else []

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""
        return (self._folder / name).is_file()

    def read(self, name: str) -> IO[bytes]:
        """Open a file."""
        return (self._folder / name).open("rb")

    @contextmanager
    def replacing(self, name: str) -> Iterator[IO[bytes]]:
        """Yield a file that replaces another at the end, whole; its folder is made."""
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as file:
            yield file

    def remove(self, name: str) -> None:
        """Delete a file, or a folder with what a kill left in it."""
        path = self._folder / name
        if path.is_dir():
            for partial in path.glob(".*.partial"):
                partial.unlink()
            path.rmdir()
        else:
            path.unlink(missing_ok=True)


class RemoteStore:
    """A folder at an address; an object is there when it was closed, whole.

    Args:
        address: of the folder.
    """

    def __init__(self, address: str) -> None:
        self._system, self._folder = connect(address)

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted."""
        self._system.invalidate_cache()
        place = self._path(folder)
        if not self._system.isdir(place):
            return []
        return sorted(posixpath.basename(path.rstrip("/")) for path in self._system.ls(place, detail=False))

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""
        return bool(self._system.isfile(self._path(name)))

    def read(self, name: str) -> IO[bytes]:
        """Open a file."""
        file: IO[bytes] = self._system.open(self._path(name), "rb")
        return file

    @contextmanager
    def replacing(self, name: str) -> Iterator[IO[bytes]]:
        """Yield a file that replaces another at the end."""
        path = self._path(name)
        self._system.makedirs(posixpath.dirname(path), exist_ok=True)
        with self._system.open(path, "wb") as file:
            yield file

    def remove(self, name: str) -> None:
        """Delete a file or a folder."""
        path = self._path(name)
        if self._system.exists(path):
            self._system.rm(path, recursive=True)

    def _path(self, name: str) -> str:
        return posixpath.join(self._folder, name)
