"""Model files by name and version: `NAME/VERSION.onnx` in a folder, or a single file."""

import contextlib
import time
from pathlib import Path
from typing import NamedTuple

from model.contract.variant import variant_path


class Signature(NamedTuple):
    """Changes when a file changes; found without reading it."""

    inode: int
    size: int
    modified_ns: int
    variant: "Signature | None" = None
    """Of the variant beside the file, where there is one and it is looked for."""

    def is_older_than(self, seconds: float) -> bool:
        """Return whether all was written long enough ago to be complete: renamed, or copied with its time."""
        is_old = time.time() - self.modified_ns / 1e9 > seconds
        return is_old and (self.variant is None or self.variant.is_older_than(seconds))


def scan(model: Path, precision: str = "") -> dict[str, tuple[Path, Signature]]:
    """Return the model files by `NAME/VERSION` (`/VERSION` for a single file), with their signatures.

    Names that begin with a dot, and stems that are not whole numbers, are not models: unfinished copies, variants,
    notes. Empty where the storage does not answer.

    Args:
        model: a folder, or a file.
        precision: of the variants whose changes count, too; empty for none.
    """
    found = {}
    with contextlib.suppress(OSError):
        for key, path in sorted(_files(model), key=lambda one: (by_number(one[0]), one[1])):
            if signature := signature_of(path):
                beside = signature_of(variant_path(path, precision)) if precision else None
                found[key] = (path, signature._replace(variant=beside))
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
