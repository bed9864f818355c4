"""Model files by name and version: `NAME/VERSION.onnx` in a folder, or a single file."""

import contextlib
import time
from pathlib import Path
from typing import NamedTuple


class Signature(NamedTuple):
    """Changes when a file changes; found without reading it."""

    inode: int
    size: int
    modified_ns: int

    def is_older_than(self, seconds: float) -> bool:
        """Return whether the file was written long enough ago to be complete: renamed, or copied with its time."""
        return time.time() - self.modified_ns / 1e9 > seconds


def scan(model: Path) -> dict[str, tuple[Path, Signature]]:
    """Return the model files by `NAME/VERSION` (`/VERSION` for a single file), with their signatures.

    Names that begin with a dot, and stems that are not whole numbers, are not models: unfinished copies, notes.
    Empty where the storage does not answer.
    """
    found = {}
    with contextlib.suppress(OSError):
        for key, path in sorted(_files(model), key=lambda one: (by_number(one[0]), one[1])):
            if signature := signature_of(path):
                found[key] = (path, signature)
    return found


def signature_of(path: Path) -> Signature | None:
    """Return the signature of a file; None where there is none, or the storage does not answer."""
    with contextlib.suppress(OSError):
        stat = path.stat()
        return Signature(stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return None


def by_number(key: str) -> tuple[str, int]:
    """Return the key that sorts `NAME/VERSION` by name, then by version as a number."""
    name, _, number = key.rpartition("/")
    return name, int(number)


def is_number(text: str) -> bool:
    """Return whether a text is a version: a whole number of at most 18 digits."""
    return text.isascii() and text.isdecimal() and len(text) <= 18


def _files(model: Path) -> list[tuple[str, Path]]:
    if model.is_dir():
        return [(f"{path.parent.name}/{int(path.stem)}", path) for path in model.glob("*/*.onnx") if _is_model(path)]
    return [(f"/{int(model.stem) if is_number(model.stem) else 1}", model)]


def _is_model(path: Path) -> bool:
    return is_number(path.stem) and not path.parent.name.startswith(".") and path.is_file()
