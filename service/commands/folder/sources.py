"""Which photos: files, folders with all that is in them, globs, lists of names; in an order that every run repeats.

A folder's hidden files are left out, as its system's are. Of the others a photo is what begins like one or has a
photo's suffix; the rest is counted. Each folder is read once, whichever links lead to it, so that links that circle
end. Only one folder's names are held at a time.
"""

import fnmatch
import glob
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from service.commands.folder.names import to_text
from service.commands.folder.remote import connect, is_address, walk_address, without_secret
from service.errors import InvalidOption

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif", ".heic")
)
_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class Photo:
    """A file that is, or may be, a photo.

    Attributes:
        name: in rows: relative to the folder that was given, else as it was given; in one line.
        path: where it is read.
        is_named: it was given by its own name, so that it has a row whatever it is.
        system: fsspec's, that the path is of; None for a file of this machine.
    """

    name: str
    path: str
    is_named: bool
    system: Any = None

    @property
    def has_suffix(self) -> bool:
        """Whether its name promises a photo."""
        return os.path.splitext(self.name)[1].lower() in SUFFIXES


@dataclass(frozen=True)
class Sources:
    """What a command was given.

    Attributes:
        paths: files, folders, globs, addresses.
        files_from: a file with a name a line, or with NUL between names; `-` is the standard input.
        own: device and inode of the files and folders that the command writes itself.
        refuse: is given the name of a folder that cannot be read, and why.
    """

    paths: Sequence[str]
    files_from: str | None = None
    own: frozenset[tuple[int, int]] = frozenset()
    refuse: Callable[[str, OSError], None] = field(default=lambda name, error: None)

    @property
    def root(self) -> str:
        """What the names in rows are relative to: the folder, where it is the only one given, else where we are."""
        folder = self._only_folder()
        if folder is None:
            return to_text(os.getcwd())
        return to_text(without_secret(folder) if is_address(folder) else os.path.realpath(folder))

    @property
    def can_be_counted(self) -> bool:
        """Whether the photos can be listed a second time."""
        return self.files_from != "-"

    def check(self) -> None:
        """Refuse what does not exist before the work.

        Raises:
            OSError: there is no such file.
            InvalidOption: a glob that no file matches, or the standard input as a photo.
        """
        for path in self.paths:
            if path == "-":
                raise InvalidOption("`-` is one photo from the standard input; a list of names is `--files-from -`.")
            if is_address(path):
                connect(path)
                continue
            if os.path.lexists(path):
                continue
            if not glob.has_magic(path):
                os.stat(path)
            if next(self._matches(path, _Walk(self.own, self.refuse)), None) is None:
                raise InvalidOption(f"{path}: no file matches.")
        if self.files_from not in (None, "-"):
            with open(str(self.files_from), "rb"):
                pass

    def photos(self) -> Iterator[Photo]:
        """Yield every photo once."""
        walk = _Walk(self.own, self.refuse)
        folder = self._only_folder()
        if folder is not None:
            yield from _remote(folder, "") if is_address(folder) else walk.folder(folder, "")
            return
        yielded: set[bytes] = set()
        for photo in self._each(walk):
            key = digest(photo.name)
            if key not in yielded:
                yielded.add(key)
                yield photo

    def _each(self, walk: "_Walk") -> Iterator[Photo]:
        for path in self.paths:
            if is_address(path):
                yield from _remote(path, _prefix(path))
            elif os.path.lexists(path) or not glob.has_magic(path):
                yield from walk.given(path, is_named=True)
            else:
                yield from self._matches(path, walk)
        if self.files_from is not None:
            for path in _read_names(self.files_from):
                yield from _remote(path, _prefix(path)) if is_address(path) else walk.given(path, is_named=True)

    @staticmethod
    def _matches(pattern: str, walk: "_Walk") -> Iterator[Photo]:
        """Yield the photos that a glob names, folders walked; `**` is walked here, since Python's follows circles."""
        before, deep, after = f"/{pattern}".partition("/**/")
        if not deep:
            for match in sorted(glob.iglob(pattern)):
                yield from walk.given(match, is_named=False)
            return
        before = before[1:] or ("/" if pattern.startswith("/") else "")
        for folder in sorted(glob.iglob(before)) if glob.has_magic(before) else [before]:
            if os.path.isdir(folder or "."):
                fits = re.compile(_expression(after))
                prefix = _prefix(folder) if folder else ""
                for photo in walk.folder(folder or ".", prefix):
                    if fits.fullmatch(photo.name.removeprefix(to_text(prefix))):
                        yield photo

    def _only_folder(self) -> str | None:
        if len(self.paths) != 1 or self.files_from is not None:
            return None
        (path,) = self.paths
        return path if is_address(path) or os.path.isdir(path) else None


def _remote(address: str, prefix: str) -> Iterator[Photo]:
    """Yield the photos at an address, the names with a prefix."""
    shown = without_secret(prefix)
    for system, path, name, is_named in walk_address(address):
        whole = shown + name if name and not is_named else without_secret(address)
        yield Photo(to_text(whole), path, is_named, system)


class _Walk:
    """A walk through folders that enters none twice."""

    def __init__(self, own: frozenset[tuple[int, int]], refuse: Callable[[str, OSError], None]) -> None:
        self._own = own
        self._refuse = refuse
        self._entered: set[tuple[int, int]] = set()
        self._above: frozenset[tuple[int, int]] = frozenset()

    def given(self, path: str, *, is_named: bool) -> Iterator[Photo]:
        """Yield the photos of a path."""
        if os.path.isdir(path):
            yield from self.folder(path, _prefix(path))
        else:
            yield Photo(to_text(path), path, is_named)

    def folder(self, path: str, prefix: str) -> Iterator[Photo]:
        """Yield the photos of a folder, sorted, subfolders in their place.

        Args:
            path: of the folder.
            prefix: of its photos' names.
        """
        self._above = _ancestors(path)
        folders = [(path, prefix, iter(self._names(path)))]
        while folders:
            path, prefix, names = folders[-1]
            name = next(names, None)
            if name is None:
                folders.pop()
            elif name.endswith("/"):
                inner = os.path.join(path, name[:-1])
                folders.append((inner, prefix + name, iter(self._names(inner))))
            else:
                yield Photo(to_text(prefix + name), os.path.join(path, name), is_named=False)

    def _names(self, path: str) -> list[str]:
        """Return the names in a folder, sorted, those of folders with a slash; none where it was entered before."""
        try:
            here = os.stat(path)
            place = here.st_dev, here.st_ino
            if place in self._entered or place in self._own or place in self._above:
                return []
            self._entered.add(place)
            with os.scandir(path) as entries:
                return sorted(name for entry in entries if (name := self._listed(entry)))
        except OSError as error:
            self._refuse(to_text(path), error)
            return []

    def _listed(self, entry: os.DirEntry[str]) -> str:
        """Return the name under which an entry is listed; empty where it is not."""
        if entry.name.startswith("."):
            return ""
        try:
            if entry.is_dir():
                return entry.name + "/"
            is_own = any(entry.inode() == inode for _, inode in self._own)
            if is_own and (entry.stat().st_dev, entry.inode()) in self._own:
                return ""
        except OSError:  # a link that leads nowhere, or to itself: reading it says so
            pass
        return entry.name


def digest(name: str) -> bytes:
    """Return what stands for a photo's name in a large set."""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def places(paths: Iterable[str]) -> frozenset[tuple[int, int]]:
    """Return device and inode of those paths that exist."""
    found = set()
    for path in paths:
        try:
            there = os.stat(path)
        except OSError:
            continue
        found.add((there.st_dev, there.st_ino))
    return frozenset(found)


def _ancestors(folder: str) -> frozenset[tuple[int, int]]:
    """Return the folders that a folder is in; a link to one of them would lead out of what was given."""
    return places(map(str, Path(os.path.realpath(folder)).parents)) - places([folder])


def open_regular(path: str) -> BinaryIO:
    """Open a plain file; a pipe or a device would be read for ever.

    Raises:
        OSError: there is none, it cannot be read, or it is something else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("not a plain file")
    return open(descriptor, "rb", buffering=0)


def _expression(pattern: str) -> str:
    """Return the expression of the names below a folder that `**/PATTERN` fits."""
    parts = [fnmatch.translate(part)[4:-3].replace(".*", "[^/]*") for part in to_text(pattern).split("/")]
    return "(?:.*/)?" + "/".join("(?:.*)" if part == "[^/]*[^/]*" else part for part in parts)


def _prefix(path: str) -> str:
    """Return what a given folder puts before the names of its photos."""
    return path if path.endswith("/") else path + "/"


def _read_names(path: str) -> Iterator[str]:
    """Yield the names in a list: one a line, or separated by NUL as `find -print0` writes them."""
    descriptor = sys.stdin.fileno() if path == "-" else os.open(path, os.O_RDONLY)
    try:
        rest, end = b"", b""
        while block := os.read(descriptor, _BLOCK):
            rest += block
            end = end or (b"\0" if b"\0" in rest else b"\n")
            *names, rest = rest.split(end)
            yield from filter(None, (os.fsdecode(name.removesuffix(b"\r") if end == b"\n" else name) for name in names))
        if rest := rest.removesuffix(b"\r"):
            yield os.fsdecode(rest)
    finally:
        if path != "-":
            os.close(descriptor)
